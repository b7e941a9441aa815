# shellcheck shell=bash

# page_commands PAGE: what a manual page shows to be typed, a command a line
page_commands()
{
	# shellcheck disable=SC2154 # root is the test's
	sed -n '/^\.Bd .*-compact/,/^\.Ed/{ /^\./!p }; s/^\.Dl //p' "$root/man/$1" |
		sed -e ':more' -e '/\\e$/{ N; s/ *\\e\n */ /; b more' -e '}' -e '/|$/{ N; s/\n */ /; b more' -e '}'
}
