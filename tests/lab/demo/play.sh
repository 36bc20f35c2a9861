#!/bin/sh
# play.sh PROGRAM   plays the walk-through inside the lab: a cluster of two nodes, a kube-ipvs on each, fed from a folder
# of manifests. Shows commands and what they really print, checks every step, and ends with 1 if one failed.
# shellcheck disable=SC2317,SC2329 # many functions are called by name, by others
set -u
here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1") || exit 2
work=${TMPDIR:?}/demo
manifests=$work/manifests
output=$work/output
mkdir -p "$manifests"
cd "$work" || exit 1

passed=0
failed=0
bold='' red='' green='' blue='' plain=''
if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$(printf '\033[1m') red=$(printf '\033[31m') green=$(printf '\033[32m') blue=$(printf '\033[36m')
	plain=$(printf '\033[0m')
fi
say() { printf '%s\n' "$*"; }
title() { say "" && say "$bold$*$plain"; }
shown() { say "$blue$1\$$plain $2"; }
ok() {
	passed=$((passed + 1))
	say "  $green✓ $*$plain"
}
wrong() {
	failed=$((failed + 1))
	say "  $red✗ failed: $*$plain"
}

# at WHERE COMMAND...   on a node or in a pod
at() {
	where=$1
	shift
	ip netns exec "$where" "$@"
}
# show WHERE COMMAND   shows a line of shell and what it prints, and keeps that for the checks
show() {
	shown "$1" "$2"
	at "$1" sh -c "$2" >"$output" 2>&1 </dev/null
	sed 's/^/  /' "$output"
}
# has WORDS PATTERN   checks what was shown last: some line matches the extended regular expression
has() {
	if grep -Eq -- "$2" "$output"; then ok "$1"; else wrong "$1 (no line matches: $2)"; fi
}
# all WORDS PATTERN   every line matches
all() {
	if grep -Evq -- "$2" "$output"; then wrong "$1 (a line does not match: $2)"; else ok "$1"; fi
}
# check WORDS COMMAND...
check() {
	words=$1
	shift
	if "$@"; then ok "$words"; else wrong "$words"; fi
}
# must WORDS COMMAND...   a check without which there is nothing to show
must() {
	already=$failed
	check "$@"
	[ "$failed" = "$already" ] || finish
}
# same WORDS WANTED FOUND
same() {
	if [ "$2" = "$3" ]; then
		ok "$1"
	else
		wrong "$1; wanted, and found:"
		printf '%s\n' "$2" >wanted
		printf '%s\n' "$3" >found
		diff wanted found | sed 's/^/    /'
	fi
}
# eventually SECONDS COMMAND...   waits until the command succeeds
eventually() {
	end=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -le "$end" ] || return 1
		sleep 0.02
	done
}
milliseconds() { date +%s%3N; }

# The virtual servers of a node with their real servers, without what counts: one line each.
servers() {
	at "$1" ipvsadm -ln | awk '
		/^(TCP|UDP|SCTP) / { server = $1; for (i = 2; i <= NF; i++) server = server " " $i; next }
		/^  ->/ && server { print server, "->", $2, $3, $4 }' | sort
}
serves() { servers "$1" | grep -q "$2"; }
addresses() { at "$1" ip -o addr show dev kube-ipvs0 2>/dev/null | awk '{ print $4 }' | sort; }
# What a restart must not touch: device, addresses, routes, virtual servers, rules with their handles (rules made anew
# would get others).
kernel_state() {
	at "$1" ip -o link show dev kube-ipvs0
	at "$1" ip -o addr show dev kube-ipvs0
	at "$1" ip route show table local
	servers "$1"
	at "$1" nft -a list ruleset | sed 's/ counter packets [0-9]* bytes [0-9]*//'
}

# start NODE [FLAG...]
start() {
	node=$1
	shift
	set -- --manifests "$manifests" --hostname-override "$node" --proxy-mode ipvs --cluster-cidr 172.18.0.0/16 "$@"
	shown "$node" "kube-ipvs $* 2>>$node.log &"
	ip netns exec "$node" "$program" "$@" >>"$node.log" 2>&1 </dev/null 4>&- &
	echo $! >"$node.pid"
}
# stop NODE SIGNAL   and wait until it is gone
stop() {
	pid=$(cat "$1.pid")
	shown "$1" "kill -$2 $pid"
	kill "-$2" "$pid"
	status=0
	wait "$pid" 2>/dev/null || status=$?
}
# connections NODE   how many connections myservice has had; a virtual server made anew begins at 0
connections() { at "$1" ipvsadm -ln --stats -t 10.102.54.177:2222 | awk '$1 == "TCP" { print $3 }'; }
no_fewer_than() { [ "$1" -gt 0 ] && [ "$(connections master)" -ge "$1" ]; }
# synced NODE TIMES   how often its log says that all is in the kernel as it should be
synced() { [ "$(grep -c '"First sync complete"' "$1.log")" = "$2" ]; }

# A request, as a user would make it.
request() { echo "socat -t5 - TCP4:$1,connect-timeout=3"; }
# four WHERE   four requests to myservice, which both servers share
four() {
	for _ in 1 2 3 4; do
		show "$1" "$(request 10.102.54.177:2222)"
		cat "$output" >>answers
	done
	mv answers "$output"
	same "both servers answered" "server-1 server-2" "$(cut -d' ' -f1 "$output" | sort -u | xargs)"
}

# The summary, with the logs if something failed.
finish() {
	title "$passed checks passed, $failed failed"
	[ "$failed" != 0 ] || exit 0
	for node in master node1; do
		say "The log of kube-ipvs on $node ends:"
		tail -n 20 "$node.log" | sed 's/^/  /'
	done
	exit 1
}

say "Two nodes, master and node1, are network namespaces of $(uname -sr) ($LAB); an IPIP tunnel joins their pods."
"$here/cluster.sh" || {
	wrong "the cluster could be made"
	exit 1
}
cp "$here/kubernetes.yaml" "$here/kube-dns.yaml" "$manifests/"

title "1. Switch on"
start master
start node1
for node in master node1; do
	must "$node: all virtual servers are there within 10 seconds" eventually 10 serves "$node" 'UDP 10.96.0.10:53 .*172.18.219.68'
done
show master 'grep "Using ipvs Proxier" master.log'
has "the log answers" 'Using ipvs Proxier'

title "2. On every node: addresses, local routes, virtual servers"
show master 'ls manifests'
show master 'ip addr show kube-ipvs0'
has "kube-ipvs0 is a device that is DOWN and answers no ARP" 'kube-ipvs0: <BROADCAST,NOARP> mtu 1500 qdisc noop state DOWN'
for address in 10.96.0.1 10.96.0.10; do
	has "it carries $address" "inet $address/32 (brd $address )?scope global kube-ipvs0"
done
has "for ever" 'valid_lft forever preferred_lft forever'
show master 'ip route show table local dev kube-ipvs0'
for address in 10.96.0.1 10.96.0.10; do
	has "packets to $address are taken in" "^local $address proto kernel scope host src "
done
show master 'ipvsadm -ln'
base='TCP 10.96.0.10:53 rr -> 172.18.219.67:53 Masq 1
TCP 10.96.0.10:53 rr -> 172.18.219.68:53 Masq 1
TCP 10.96.0.10:9153 rr -> 172.18.219.67:9153 Masq 1
TCP 10.96.0.10:9153 rr -> 172.18.219.68:9153 Masq 1
TCP 10.96.0.1:443 rr -> 192.168.122.20:6443 Masq 1
UDP 10.96.0.10:53 rr -> 172.18.219.67:53 Masq 1
UDP 10.96.0.10:53 rr -> 172.18.219.68:53 Masq 1'
base=$(say "$base" | sort)
for node in master node1; do
	same "$node: one virtual server per Service port, with these real servers and no others" "$base" "$(servers $node)"
	same "$node: one address per Service, and no others" "$(printf '10.96.0.1/32\n10.96.0.10/32')" "$(addresses $node)"
done

title "3. Requests from a pod"
show client "$(request 10.96.0.1:443)"
has "the API server answered, and saw the pod's own address" '^master saw 172\.18\.219\.70$'
show client "$(request 10.96.0.10:53)"
has "DNS answered over TCP" '^dns-[12] saw 172\.18\.219\.70$'
show client 'echo question | socat -t1 - UDP4:10.96.0.10:53'
has "DNS answered over UDP" '^dns-[12] saw 172\.18\.219\.70$'
show client 'ping -c 1 -W 2 10.96.0.10'
has "the service address answers ping" ' 1 received'
show client "$(request 10.96.0.10:22)"
has "a port that no Service declares is refused at once" 'Connection refused'

title "4. A new Service, while all runs"
shown master 'cp myservice.yaml manifests/'
began=$(milliseconds)
cp "$here/myservice.yaml" "$manifests/"
for node in master node1; do
	must "$node: its virtual server has both real servers" eventually 5 serves "$node" 'TCP 10.102.54.177:2222 .*172.18.166.135'
done
say "  ($(($(milliseconds) - began)) ms after the copy began, most of them this script's own)"
show master 'ip -brief addr show kube-ipvs0'
has "its address is on kube-ipvs0" ' 10\.102\.54\.177/32'
show master 'ip route show table local dev kube-ipvs0'
has "its local route is there" '^local 10\.102\.54\.177 '
show master 'ipvsadm -ln -t 10.102.54.177:2222'
all=$(printf '%s\n' "$base" \
	'TCP 10.102.54.177:2222 rr -> 172.18.166.134:2222 Masq 1' \
	'TCP 10.102.54.177:2222 rr -> 172.18.166.135:2222 Masq 1' | sort)
for node in master node1; do
	same "$node: exactly that was added" "$all" "$(servers $node)"
done

title "5. The packet's way: client pod on master, servers on node1"
four client
all "and saw the pod's own address: no source translation for pods" ' saw 172\.18\.219\.70$'

title "6. Looking at it"
show master 'cat /proc/net/ip_vs_conn'
has "the entry: from the client, to the service, on to a pod (hexadecimal)" \
	'^TCP AC12DB46 [0-9A-F]{4} 0A6636B1 08AE AC12A68[67] 08AE '
show master 'ipvsadm -l --timeout'
has "the three timeouts of the kernel" 'Timeout \(tcp tcpfin udp\): [0-9]+ 120 300'
show master 'nft list table ip kube-ipvs'
has "our nftables table is readable" 'cluster-addresses'

title "7. Every node is a director: a client on node1, and the nodes themselves"
four client-2
all "and saw the pod's own address" ' saw 172\.18\.166\.136$'
four master
all "and saw an address of the node, not the service's" ' saw (192\.168\.122\.20|172\.18\.219\.64)$'
four node1
all "and saw an address of the node, not the service's" ' saw (192\.168\.122\.21|172\.18\.166\.128)$'

title "8. Killed and started again: nothing is written, a connection goes on"
trap : PIPE # the other end of the connection may be gone
mkfifo question
ip netns exec client socat -t5 - TCP4:10.102.54.177:2222 <question >conversation 2>&1 &
conversation=$!
exec 4>question
must "a connection is open" eventually 5 grep -q '^server-. saw 172\.18\.219\.70$' conversation
ip netns exec master ip monitor address route link >events 2>&1 4>&- &
monitor=$!
stop master KILL
show client "$(request 10.102.54.177:2222)"
has "without kube-ipvs the services go on" '^server-[12] saw 172\.18\.219\.70$'
kernel_state master >before
before=$(connections master)
start master
check "it is there again, and says that all is in place" eventually 10 synced master 2
show master 'grep "First sync complete" master.log | tail -n 1'
has "and that it has written nothing" 'writes=0'
kernel_state master >after
same "addresses, routes, virtual servers, rules: the same as before, none made anew" "$(cat before)" "$(cat after)"
check "nor did its virtual server begin to count anew ($before connections before)" no_fewer_than "$before"
kill "$monitor"
same "the kernel saw no address, route or device come or go" "" "$(grep kube-ipvs0 events)"
echo 'still there' >&4
check "the connection from before goes on" eventually 5 grep -qx 'still there' conversation

title "9. Other timeouts, by flags"
stop master TERM
same "SIGTERM: it ends with status 0" 0 "$status"
kernel_state master >before
start master --ipvs-tcp-timeout 60s --ipvs-tcpfin-timeout 120s --ipvs-udp-timeout 300s
timeouts_are() { at master ipvsadm -l --timeout | grep -q "$1"; }
check "the timeouts change" eventually 10 timeouts_are ': 60 120 300'
show master 'ipvsadm -l --timeout'
has "as the flags say" 'Timeout \(tcp tcpfin udp\): 60 120 300'
check "it says that all is in place" eventually 10 synced master 3
show master 'grep "First sync complete" master.log | tail -n 1'
has "with one write" 'writes=1'
kernel_state master >after
same "and nothing else changed" "$(cat before)" "$(cat after)"
echo 'still here' >&4
check "the connection goes on" eventually 5 grep -qx 'still here' conversation
exec 4>&-
wait "$conversation"

title "10. The Service goes"
shown master 'rm manifests/myservice.yaml'
rm "$manifests/myservice.yaml"
gone() { ! serves "$1" 10.102.54.177 && ! addresses "$1" | grep -q 10.102.54.177; }
for node in master node1; do
	check "$node: its address and its virtual server are gone" eventually 5 gone "$node"
	same "$node: all others are as they were" "$base" "$(servers $node)"
done

finish
