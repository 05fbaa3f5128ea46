#!/bin/sh
# Brings the Consul server for the tests of the journal: consul.sh DIR
#
# Debian 12 has no package of it: it is unpacked from Debian 11's, of the version that is pinned here; nothing is installed. The
# package comes from where this machine installs its own, of another suite. Program: DIR/bin/consul.
set -eu

mkdir -p "$1"
dir=$(cd "$1" && pwd)
# With the number of the archive's rebuild behind it.
version='1.8.7+dfsg1-2*'
suite=bullseye

[ "$(cat "$dir/version" 2>/dev/null)" != "$version" ] || exit 0
new=$dir/.new
rm -rf "$new"
mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/apt/sources" "$new/tree"
: > "$new/apt/status"
for file in /etc/apt/sources.list.d/*.sources; do
    if grep -q 'debian-archive-keyring' "$file"; then
        sed -n '/^Types:/,/^$/p' "$file" | sed '/^$/,$d' | sed "s/^Suites:.*/Suites: $suite/" > "$new/apt/sources/debian.sources"
        break
    fi
done
if [ ! -s "$new/apt/sources/debian.sources" ]; then
    echo "consul: this machine has no Debian sources in /etc/apt/sources.list.d" >&2
    exit 1
fi
echo "consul: bringing Consul $version from $suite"
set -- -q -o "Dir::State=$new/apt" -o "Dir::State::status=$new/apt/status" -o "Dir::Cache=$new/apt" \
    -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$new/apt/sources" -o Dir::Etc::preferencesparts=/dev/null \
    -o APT::Sandbox::User=root
apt-get "$@" update > "$new/log" 2>&1 || { cat "$new/log" >&2 && exit 1; }
(cd "$new" && apt-get "$@" download "consul=$version" >> log 2>&1) || { cat "$new/log" >&2 && exit 1; }
dpkg-deb -x "$new"/consul_*.deb "$new/tree"
rm -rf "$dir/bin"
mkdir -p "$dir/bin"
mv "$new/tree/usr/bin/consul" "$dir/bin/consul"
rm -rf "$new"
"$dir/bin/consul" version | head -n 1
echo "$version" > "$dir/version"
