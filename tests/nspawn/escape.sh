#!/bin/sh
# A program of a release that tries what code of an attacker would try inside of an instance. It prints what it could do, and then
# answers its health check: perl is on every Debian.
attempt() {
    what=$1
    shift
    if "$@" > /dev/null 2>&1; then echo "ESCAPED: $what"; else echo "refused: $what"; fi
}
echo "user $(id -un), groups $(id -Gn)"
cat own > /dev/null && echo "reads its own file"
attempt "reads the state" cat /var/lib/switchman/switchman.db
attempt "lists the state" ls /var/lib/switchman
attempt "reads the environments" ls /var/lib/switchman/environment
attempt "reads /etc/shadow" cat /etc/shadow
attempt "connects to the agent" perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new("/run/switchman/agent.sock") or exit 1'
attempt "starts a unit" systemd-run --quiet --wait true
attempt "stops the agent" systemctl stop switchman
attempt "writes a unit" touch /etc/systemd/system/escaped.service
attempt "writes to /usr" touch /usr/local/bin/escaped
attempt "changes its code" sh -c 'echo >> escape.sh'
attempt "becomes root" perl -e '$< = 0; $> = 0; exit($> == 0 ? 0 : 1)'
attempt "makes a device" mknod device b 8 0
attempt "makes a namespace" unshare --user --map-root-user true
attempt "mounts" mount -t tmpfs none /mnt
attempt "reads memory" head -c 1 /dev/mem
attempt "changes rules" iptables -t nat -L
attempt "sees the environment of process 1" cat /proc/1/environ
echo "every attempt is made"
exec perl -MIO::Socket::INET -e '
    my $listener = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1) or die "cannot listen: $!";
    while (my $client = $listener->accept) {
        sysread($client, my $request, 4096);
        print $client "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
        close $client;
    }
'
