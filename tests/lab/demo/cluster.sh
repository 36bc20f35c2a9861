#!/bin/sh
# cluster.sh   makes a small cluster out of network namespaces, inside the lab: two nodes, a wire between them, pods.
#
#   client 172.18.219.70 ┐         master                       node1         ┌ server-1 172.18.166.134
#   dns-1  172.18.219.67 ┼ eth0 192.168.122.20 ─────── 192.168.122.21 eth0    ┼ server-2 172.18.166.135
#   dns-2  172.18.219.68 ┘ tunl0 172.18.219.64 ═ IPIP ═ 172.18.166.128 tunl0  └ client-2 172.18.166.136
#
# The pods' wiring is Calico's: the node's end of a pod's veth has no address and answers for the pod's gateway.
# The server on master itself stands for the API server.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

# node NAME TUNNEL-ADDRESS   a node; its eth0 comes with the wire
node() {
	ip netns add "$1"
	ip -n "$1" link set lo up
	ip -n "$1" link set tunl0 up # there in every namespace of a kernel with IPIP
	ip -n "$1" addr add "$2/32" dev tunl0
	ip netns exec "$1" sysctl -qw net.ipv4.ip_forward=1
}

# pod NAME NODE ADDRESS
pod() {
	ip netns add "$1"
	ip -n "$1" link set lo up
	ip -n "$2" link add "cali-$1" type veth peer name eth0 netns "$1"
	ip netns exec "$2" sysctl -qw "net.ipv4.conf.cali-$1.proxy_arp=1" "net.ipv4.neigh.cali-$1.proxy_delay=0"
	ip -n "$2" link set "cali-$1" up
	ip -n "$1" link set eth0 up
	ip -n "$1" addr add "$3/32" dev eth0
	ip -n "$1" route add 169.254.1.1 dev eth0 scope link
	ip -n "$1" route add default via 169.254.1.1 dev eth0
	ip -n "$2" route add "$3" dev "cali-$1" scope link
}

# serve POD PORT [udp]   a server that says its name and whom it sees
serve() {
	case ${3:-tcp} in
	tcp) listen=TCP4-LISTEN:$2,fork,reuseaddr ;;
	udp) listen=UDP4-RECVFROM:$2,fork ;;
	esac
	ip netns exec "$1" socat "$listen" "EXEC:$here/answer.sh $1 ${3:-tcp}" &
}

node master 172.18.219.64
node node1 172.18.166.128
ip -n master link add eth0 type veth peer name eth0 netns node1
for end in master=192.168.122.20 node1=192.168.122.21; do
	ip -n "${end%=*}" addr add "${end#*=}/24" dev eth0
	ip -n "${end%=*}" link set eth0 up
	ip -n "${end%=*}" route add default via 192.168.122.1 dev eth0 # nobody there, but the way is known
done
ip -n master route add 172.18.166.128/26 via 192.168.122.21 dev tunl0 onlink
ip -n node1 route add 172.18.219.64/26 via 192.168.122.20 dev tunl0 onlink

pod client master 172.18.219.70
pod dns-1 master 172.18.219.67
pod dns-2 master 172.18.219.68
pod server-1 node1 172.18.166.134
pod server-2 node1 172.18.166.135
pod client-2 node1 172.18.166.136

serve master 6443
for dns in dns-1 dns-2; do
	serve "$dns" 53
	serve "$dns" 53 udp
	serve "$dns" 9153
done
serve server-1 2222
serve server-2 2222
