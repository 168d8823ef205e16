#!/usr/bin/env bash
# Prints the name of a memcached image that this machine has or can pull; if there is none, makes one from the installed
# memcached, under a name of its own. No image that exists already is ever overwritten.
set -euo pipefail

wanted=${MEMCACHED_IMAGE:-memcached:1.6}
own=cachekit-memcached:local
exists() { docker image inspect "$1" >/dev/null 2>&1; }

if exists "$wanted"; then
    echo "$wanted"
    exit
fi
if exists "$own"; then
    echo "$own"
    exit
fi
if timeout 120 docker pull --quiet "$wanted" >/dev/null 2>&1; then
    echo "$wanted"
    exit
fi

binary=$(command -v memcached)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/bin" "$root/etc"
mkdir -m 1777 "$root/tmp"
cp -L "$binary" "$root/usr/bin/memcached"
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    cp -L --parents "$library" "$root"
done
echo 'memcache:x:11211:11211::/:/usr/sbin/nologin' >"$root/etc/passwd"
chmod 755 "$root"
tar -C "$root" -c . |
    docker import --change 'USER memcache' --change 'ENTRYPOINT ["/usr/bin/memcached"]' - "$own" >/dev/null
echo "$own"
