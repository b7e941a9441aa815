#!/bin/sh
# Installs the packages that building and running (run), or the tests (check), the
# tables of results (results) or the benchmark (bench) besides, need and
# that are missing, where this user may; else says what to type. Quick when nothing is missing.
# usage: setup.sh run|check|results|bench
set -eu

cd "$(dirname "$0")"

# A line each: what is needed; the Debian and Ubuntu packages that have it, the first that exists is taken.
run='C-compiler gcc
C-library libc6-dev
oneDNN libdnnl-dev
msgpack-c libmsgpack-c-dev libmsgpack-dev
libarchive libarchive-dev
libjpeg-turbo libjpeg-dev
libpng libpng-dev
zlib zlib1g-dev
xxHash libxxhash-dev
jansson libjansson-dev
bash bash
GNU-parallel parallel'
check='bats bats
C++-compiler g++
mandoc mandoc
shellcheck shellcheck
valgrind valgrind
zstd zstd
OpenSSH-server openssh-server
xz xz-utils
NumPy python3-numpy
msgpack-for-Python python3-msgpack
msgpack-numpy python3-msgpack-numpy
Pillow python3-pil
xxHash-for-Python python3-xxhash'
results='jq jq'
# For the two PyTorch scripts of the README alone; their tests are left out where it cannot be had.
optional='torchvision python3-torchvision' without='two tests are left out' noted=build/setup.no-torch
# PyTorch comes into a virtual environment of its own, and compiles what it is told to.
bench='virtual-environments python3-venv
C++-compiler g++
Python-headers python3-dev'

say()
{
	echo "setup: $*" >&2
}

installed()
{
	dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

available()
{
	apt-cache show "$1" >/dev/null 2>&1
}

# missing LIST: the packages to install
missing()
{
	printf '%s\n' "$1" | while read -r what packages; do
		take=
		for p in $packages; do
			if installed "$p"; then
				take=none
				break
			fi
		done
		for p in $packages; do
			if [ -z "$take" ] && available "$p"; then
				take=$p
			fi
		done
		case $take in
		none) ;;
		"") echo "${packages##* }" ;;
		*) echo "$take" ;;
		esac
	done | tr '\n' ' '
}

# apt ARGUMENTS: apt-get as root
apt()
{
	if [ "$(id -u)" -eq 0 ]; then
		DEBIAN_FRONTEND=noninteractive apt-get "$@" >&2
	else
		sudo -n env DEBIAN_FRONTEND=noninteractive apt-get "$@" >&2
	fi
}

case ${1-} in
run) need=$run optional= ;;
check)
	need="$run
$check
$results"
	;;
results)
	need="$run
$results" optional=
	;;
bench) need=$run optional=$bench without='PyTorch, or some variants of it, are left out' noted=build/setup.no-peer ;;
*)
	echo "usage: setup.sh run|check|results|bench" >&2
	exit 2
	;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
	# Another system: its own names are not known here, and what is missing shows when it is missed.
	mkdir -p build
	if [ ! -e "build/setup.$1" ]; then
		say "no apt here; if the build fails, install these, with headers where they are libraries:"
		printf '%s\n' "$need" | while read -r what _; do say "  $what"; done
		: >"build/setup.$1"
	fi
	exit 0
fi

todo=$(missing "$need")
# Nobody is made to wait twice for what could not be had.
extra=
if [ -n "$optional" ] && [ ! -e "$noted" ]; then
	extra=$(missing "$optional")
fi
[ -n "$todo$extra" ] || exit 0
if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then
	if [ -n "$todo" ]; then
		say "these packages are missing; type this line, then try again:"
		echo "    sudo apt-get install --no-install-recommends $todo$extra" >&2
		exit 1
	fi
	say "without $extra(sudo apt-get install --no-install-recommends $extra) $without"
	exit 0
fi
say "installing $todo$extra"
apt -qq update || say "the lists of packages could not be renewed; going on with those that are there"
todo=$(missing "$need") # a fresh list may know better names
if [ -n "$todo" ]; then
	# shellcheck disable=SC2086 # words
	apt -qq -y --no-install-recommends install $todo
fi
if [ -n "$extra" ]; then
	# shellcheck disable=SC2086 # words
	apt -qq -y --no-install-recommends install $extra || {
		say "$extra could not be installed; $without"
		mkdir -p build
		: >"$noted"
	}
fi
