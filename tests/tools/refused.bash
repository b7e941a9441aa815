# What the tests of images, training and evaluation share: how a filter refuses.
# shellcheck shell=bash

# shellcheck disable=SC2154 # stderr is set by run
# refused WORDS COMMAND...: fails with 1 and one line that has the words, and leaves no output file: "out" or "work/out"
refused()
{
	local words=$1

	shift
	run --separate-stderr "$@"
	[ "$status" -eq 1 ] || { echo "status $status: $stderr"; return 1; }
	[ "$(printf '%s\n' "$stderr" | wc -l)" -eq 1 ] || { echo "said: $stderr"; return 1; }
	[[ $stderr == *"$words"* ]] || { echo "said: $stderr"; return 1; }
	[ ! -e out ] && [ ! -e work/out ]
}
