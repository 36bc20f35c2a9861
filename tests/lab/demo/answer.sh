#!/bin/sh
# answer.sh NAME PROTOCOL   what a demo server says to a client that socat took in: its name, and whom it sees. Over TCP
# it goes on to send back what it gets, until the client is done.
[ "$2" = tcp ] || read -r _ # a datagram is there to be read
echo "$1 saw $SOCAT_PEERADDR"
[ "$2" != tcp ] || exec cat
