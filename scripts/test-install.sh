#!/bin/sh
# Proves `./install.sh --try` on a clean Debian: test-install.sh FOLDER
#
# FOLDER becomes a minimal Debian with git, curl and sudo, as a newcomer has it, and a user `owner` who may use sudo. The
# committed state of this checkout is cloned into it, installed and asked. The Rust toolchain is this machine's, bind-mounted:
# what rustup would do on a machine without one is not proven here. Needs root, for chroot and its mounts; they live in a
# namespace of their own and end with it, as does every process that was started inside.
set -eu
cd "$(dirname "$0")/.."
root=$(mkdir -p "$1" && cd "$1" && pwd)
port=${SOVEREIGN_TEST_PORT:-18808}

if [ "${2:-}" != inside ]; then
    [ "$(id -u)" = 0 ] || { echo "test-install.sh needs root" >&2; exit 1; }
    scripts/apt.sh debootstrap:debootstrap unshare:util-linux
    [ -f "$root/etc/debian_version" ] ||
        debootstrap --variant=minbase --include=git,curl,sudo,ca-certificates bookworm "$root"
    exec unshare --mount --pid --fork --kill-child "$0" "$root" inside
fi

mount --make-rprivate /
mount -t proc proc /proc
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root/opt/rust"
mount --bind "$(rustc --print sysroot)" "$root/opt/rust"
# How this machine reaches package registries: its resolver, its certificates, its pip's and npm's settings.
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
rm -rf "$root/etc/ssl/certs"
cp -rL /etc/ssl/certs "$root/etc/ssl/certs"
[ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/"
settings=$(env | grep -iE '^(pip_|npm_config_|node_extra_ca_certs=|ssl_cert_|curl_ca_bundle=|git_ssl_|https?_proxy=|no_proxy=)' | tr '\n' ' ')

chroot "$root" id owner >/dev/null 2>&1 || chroot "$root" useradd --create-home --shell /bin/sh owner
echo "owner ALL=(ALL) NOPASSWD: ALL" > "$root/etc/sudoers.d/owner"
echo "Defaults env_keep += \"PIP_* NODE_* SSL_CERT_*\"" > "$root/etc/sudoers.d/registries"
home=$root/home/owner
rm -rf "$home/sovereign"
git clone --quiet . "$home/sovereign"
chroot "$root" chown -R owner:owner /home/owner

as_owner() {
    # shellcheck disable=SC2086 # the settings are split on purpose
    chroot --userspec=owner:owner "$root" env -i HOME=/home/owner LANG=C.UTF-8 \
        PATH=/opt/rust/bin:/usr/local/bin:/usr/bin:/bin $settings "$@"
}

run() {
    began=$(date +%s)
    as_owner sh -c "cd ~/sovereign && exec ./install.sh --try --port $port" > "$root/tmp/try.log" 2>&1 &
    daemon=$!
    # What is printed last, once everything stands.
    until grep -q 'runs until you press' "$root/tmp/try.log"; do
        kill -0 $daemon 2>/dev/null || { cat "$root/tmp/try.log"; echo "install.sh ended" >&2; exit 1; }
        sleep 1
    done
    echo "--- ./install.sh --try: $(($(date +%s) - began)) s, $1"
}

stop() {
    # A background job of a script does not hear Ctrl-C.
    kill -TERM "$(pgrep -f "^/bin/sh ./install.sh --try --port $port" | head -n 1)"
    wait $daemon || true
}

run "the first time"
cat "$root/tmp/try.log"
echo "--- a chat by curl"
as_owner curl --silent --show-error --fail "http://127.0.0.1:$port/v1/chat/completions" -H 'content-type: application/json' -d '{
    "model": "qwen2.5-coder-1.5b-instruct", "max_tokens": 60, "temperature": 0,
    "messages": [{"role": "user", "content": "What is a NAS? Answer in one sentence."}]}'
echo
stop
run "the second time"
stop
