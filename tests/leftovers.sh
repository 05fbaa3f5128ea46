#!/bin/sh
# COMMAND...: runs it with a temporary directory of its own, then lists what it left: processes, files and mounts of that
# directory, network namespaces and links that begin with `swm-`. Fails when the command fails or anything was left.
set -u
# Short: a unix socket's path has at most 107 bytes.
dir=$(mktemp -d /tmp/swm-XXXXXX) || exit 1
# As /tmp: tests run programs as other users.
chmod 1777 "$dir"
list_network() {
    { ip -o link show 2>/dev/null | sed 's/^[0-9]*: /link /; s/[@:].*//'
      ip netns list 2>/dev/null | sed 's/^/namespace /; s/ (id.*//'; } | grep ' swm-' | sort
}
# Its files tell a process: its directory, its program, its arguments or its environment.
list_processes() {
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        [ "$pid" != $$ ] || continue
        { readlink "$process/cwd" "$process/exe"; tr '\0' '\n' < "$process/cmdline"
          tr '\0' '\n' < "$process/environ"; } 2>/dev/null | grep -q -F "$dir" || continue
        # A zombie is its parent's affair, and a child of this shell reads the same environment.
        state=$(sed 's/.*) //; s/ .*//' "$process/stat" 2>/dev/null) || continue
        parent=$(sed 's/.*) . //; s/ .*//' "$process/stat" 2>/dev/null) || continue
        [ "$state" = Z ] || [ "$parent" = $$ ] || echo "process $pid (parent $parent): $(tr '\0' ' ' < "$process/cmdline" 2>/dev/null)"
    done
}
# A namespace's name has the pid of its test: a test that still runs belongs to another run on this machine.
skip_running() {
    while read -r kind name; do
        pid=$(echo "$name" | sed -n 's/^swm-[a-z]*\([0-9][0-9]*\)-.*/\1/p')
        [ -n "$pid" ] && [ -e "/proc/$pid" ] || echo "$kind $name"
    done
}
list_left() {
    list_processes
    grep -F " $dir" /proc/self/mounts | sed 's/^/mount /'
    find "$dir" -mindepth 1 -maxdepth 1 | sed 's/^/file /'
    list_network | grep -v -x -F -f "$before" | skip_running
}
before=$(mktemp) || exit 1
# A pattern that no line has: an empty file would match every line.
{ echo 'none'; list_network; } > "$before"
TMPDIR=$dir "$@"
status=$?
# A process that has got its signal may take a moment to end.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    left=$(list_left)
    [ -n "$left" ] || break
    sleep 1
done
rm -f "$before"
if [ -n "$left" ]; then
    echo "leftovers: the command ended with status $status and left:" >&2
    echo "$left" >&2
    exit 1
fi
rmdir "$dir"
echo "leftovers: none (processes, files, mounts, network namespaces, links)"
exit "$status"
