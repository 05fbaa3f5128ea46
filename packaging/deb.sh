#!/bin/sh
# BINARY -> target/deb/switchman_VERSION_ARCH.deb, with nothing but dpkg-deb. The same sources make the same bytes: times are
# those of the last commit.
set -eu
cd "$(dirname "$0")/.."
binary=$1
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")
out=target/deb
root=$out/switchman_${version}_$architecture
umask 022
rm -rf "$root"
mkdir -p "$root/DEBIAN"
doc=$root/usr/share/doc/switchman

install -D -m 755 "$binary" "$root/usr/sbin/switchman"
install -D -m 644 -t "$root/lib/systemd/system" packaging/switchman.service packaging/switchman-restore.service packaging/switchman-repair.service packaging/switchman-proxy.service
install -D -m 644 packaging/tmpfiles.conf "$root/usr/lib/tmpfiles.d/switchman.conf"
install -D -m 644 packaging/debian/lintian-overrides "$root/usr/share/lintian/overrides/switchman"
# With what README.md links to, at the same relative paths.
install -D -m 644 -t "$doc" packaging/debian/copyright README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE
find docs examples docker/README.md -type f | while read -r file; do
    mode=644; [ ! -x "$file" ] || mode=755
    install -D -m $mode "$file" "$doc/$file"
done
"$binary" man "$root/usr/share/man/man1"
install -d "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
    "$root/usr/share/fish/vendor_completions.d"
"$binary" completions bash > "$root/usr/share/bash-completion/completions/switchman"
"$binary" completions zsh > "$root/usr/share/zsh/vendor-completions/_switchman"
"$binary" completions fish > "$root/usr/share/fish/vendor_completions.d/switchman.fish"
# A set as `switchman init` writes it: the packaged examples work as their comments describe.
"$binary" init "$doc/examples" --name shop > /dev/null
# The paths in it are those of this machine until here; its links are relative.
here=$(printf "%s" "$(pwd -P)/$doc/examples" | sed 's/[][\\.*^$|]/\\&/g')
find "$doc/examples" -type f -exec sed -i "s|$here|/usr/share/doc/switchman/examples|g" {} +
install -D -m 644 -t "$doc/examples" packaging/unconfined.conf packaging/grafana/switchman.json
printf 'switchman (%s) stable; urgency=medium\n\n  * See https://semver.org: the version shows the kind of change.\n\n -- %s  %s\n' \
    "$version" 'switchman maintainers <switchman@switchman.invalid>' "$date" > "$doc/changelog"
find "$root/usr/share/man" "$doc/changelog" -type f -exec gzip -9n {} +

for script in postinst prerm postrm; do
    install -m 755 "packaging/debian/$script" "$root/DEBIAN/$script"
done
size=$(du -sk --exclude=DEBIAN "$root" | cut -f 1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" packaging/debian/control > "$root/DEBIAN/control"
(cd "$root" && find usr lib -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) > "$root/DEBIAN/md5sums"
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Z"${COMPRESSION:-xz}" --build "$root" "$out" > /dev/null
rm -rf "$root"
echo "$out/switchman_${version}_$architecture.deb"
