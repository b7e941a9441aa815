#!/usr/bin/env bats
# What a run of teddy survives: kills at random moments, orphans, a second run beside it, a full disk, a lost host.
# shellcheck disable=SC2154 # root is tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	export OMP_WAIT_POLICY=passive
	cd "$BATS_FILE_TMPDIR" || return
	load-images -s 8 -n 4 --classes "@$root/pipelines/sample/CLASSES" "$root/pipelines/sample/t10k-images-idx3-ubyte.gz" |
		save-images -o images.tar
	run_into whole
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

# An sshd of a test that failed half-way must not stay.
teardown()
{
	local file

	for file in ssh/*/pid; do
		[ ! -e "$file" ] || kill "$(cat "$file")" 2>/dev/null || true
	done
}

# as_run FOLDER [OPTION...]: becomes the smallest run, with four units
as_run()
{
	exec "$root/pipelines/teddy" --size 8 --arch convnet1-8 --epochs 2 --first 1 --every 1 --batch 20 --ipc 4 --unit 10 \
		--iterations "${iterations:-4}" --teachers 2 --hard-steps 2 --soft-steps 2 --soft-batch 10 --repeats 1 \
		--whole-steps 0 --threads 2 --save-every 2 "${@:2}" "${images:-images.tar}" images.tar "$1"
}

run_into()
{
	(as_run "$@") >"$1.out" 2>"$1.err"
}

# children PROCESS...: these and all that came of them
children()
{
	local all=" $* " stat line grown=1

	while [ -n "$grown" ]; do
		grown=
		for stat in /proc/[0-9]*/stat; do
			read -r line 2>/dev/null <"$stat" || continue
			stat=${stat#/proc/} stat=${stat%/stat}
			line=${line##*) }
			line=${line#* }
			[[ $all == *" $stat "* || $all != *" ${line%% *} "* ]] || { all+="$stat " && grown=1; }
		done
	done
	echo "$all"
}

# working PROCESSES: those of them that distil; one that ended keeps its name until it is waited for
working()
{
	local pid

	for pid in $1; do
		! grep -q '^[0-9]* (synth-step) [^ZX]' "/proc/$pid/stat" 2>/dev/null || echo "$pid"
	done
}

# works PROCESS: something that came of it distils
works()
{
	[ -n "$(working "$(children "$1")")" ]
}

# halts PROCESS: the same, and stands still from now on
halts()
{
	local pid

	for pid in $(working "$(children "$1")"); do
		kill -STOP "$pid" 2>/dev/null && sleep 0.1
		! grep -q '^[0-9]* (synth-step) T' "/proc/$pid/stat" 2>/dev/null || return 0
	done
	return 1
}

# until_so COMMAND...: waits for it to succeed, a minute at most
until_so()
{
	local tries

	for ((tries = 0; tries < 1200; tries++)); do
		"$@" && return
		sleep 0.05
	done
	echo "never: $*"
	return 1
}

# steps_of LOG: it speaks of this step
speaks_of()
{
	grep -q "^..:..:..  $2" "$1" 2>/dev/null
}

@test "five kills, each followed by a run: the same bytes" {
	"$root/tests/survive" 5 >survive.out 2>survive.err || { cat survive.out survive.err && return 1; }
	sed -n 's/^/# /p' survive.out >&3
	grep -qx '5 of 5 ended with the same bytes' survive.out
}

@test "a second run on the same folder is refused while the first is at work; what a killed one left is ended" {
	local first

	iterations=20000 run_into busy &
	until_so speaks_of busy.err synthesis
	first=$(cut -d ' ' -f 2 busy/log/lock)
	run -1 --separate-stderr "$root/pipelines/teddy" images.tar images.tar busy
	[ "$stderr" = "teddy: busy: another run is at work here, process $first of $HOSTNAME" ]
	until_so works "$first"
	left=$(children "$first")
	kill -KILL "$first"
	wait
	left=$(working "$left")
	[ -n "$left" ] # goes on by itself
	iterations=4 run_into busy
	[ -z "$(working "$left")" ]
	cmp busy/distilled.ts whole/distilled.ts
}

@test "a GNU parallel that is killed while something of it sleeps ends the run, and the next one goes on" {
	local began=$SECONDS

	mkdir asleep
	printf '#!/bin/bash\nsleep 60 &\nkill -KILL $$\n' >asleep/parallel
	chmod +x asleep/parallel
	! (PATH=$PWD/asleep:$PATH run_into sleepers) || return 1
	[ $((SECONDS - began)) -lt 30 ]
	run_into sleepers
	cmp sleepers/distilled.ts whole/distilled.ts
	cmp sleepers/table.tsv whole/table.tsv
}

@test "a full disk is one line, and with room again the run goes on" {
	unshare -rm true 2>/dev/null || skip "no mounts of one's own here"
	mkdir -p disk
	for room in 4 60 120 200; do
		cat >full <<-END
		mount -t tmpfs -o size=4m none disk
		. ./functions
		mkdir disk/out
		dd if=/dev/zero of=disk/filler bs=1k count=\$((4096 - $room)) status=none
		! (as_run disk/out) >full.out 2>full.err1 || exit 9
		rm disk/filler
		(as_run disk/out) >full.out 2>full.err2 || exit 8
		cp disk/out/distilled.ts disk/out/table.tsv .
		END
		declare -f as_run >functions
		rm -f full.err?
		unshare -rm bash -eu full || { echo "room $room: $?" && cat full.err?; return 1; }
		grep -v '^..:..:..  \|^          ' full.err1 >said || true
		[ "$(wc -l <said)" -eq 1 ] || { echo "room $room:" && cat said; return 1; }
		grep -q 'No space left on device' said
		cmp distilled.ts whole/distilled.ts
		cmp table.tsv whole/table.tsv
	done
}

# host NAME PORT: an sshd of our own on the loopback interface; its process in NAME.pid
host()
{
	mkdir -p "ssh/$1"
	ssh-keygen -q -t ed25519 -N '' -f "ssh/$1/key"
	cat >"ssh/$1/config" <<-END
	ListenAddress 127.0.0.1:$2
	HostKey $PWD/ssh/$1/key
	AuthorizedKeysFile $PWD/ssh/id.pub
	PidFile $PWD/ssh/$1/pid
	StrictModes no
	UsePAM no
	PasswordAuthentication no
	END
	[ "$(id -u)" -ne 0 ] || mkdir -p /run/sshd
	"$(command -v sshd || echo /usr/sbin/sshd)" -f "$PWD/ssh/$1/config" -E "$PWD/ssh/$1/log" 3>&- || return
	printf 'Host %s\n\tHostName 127.0.0.1\n\tPort %s\n' "$1" "$2" >>ssh/config
}

# two_hosts SIGNAL: units are spread over two, until a signal goes to all processes of one
two_hosts()
{
	local port=$((20000 + RANDOM % 20000)) first file

	command -v /usr/sbin/sshd >/dev/null || skip "there is no sshd (openssh-server)"
	rm -rf ssh spread
	mkdir ssh
	ssh-keygen -q -t ed25519 -N '' -f ssh/id
	cat >ssh/config <<-END
	Host *
	IdentityFile $PWD/ssh/id
	IdentitiesOnly yes
	StrictHostKeyChecking no
	UserKnownHostsFile /dev/null
	LogLevel ERROR
	BatchMode yes
	END
	host one "$port"
	host two $((port + 1))
	# The pipeline's own words for ssh, with this configuration in front.
	printf '#!/bin/sh\nexec %s -F %s "$@"\n' "$(command -v ssh)" "$PWD/ssh/config" >ssh/ssh
	chmod +x ssh/ssh
	export iterations=3000
	[ -e alone/distilled.ts ] || run_into alone --jobs 1
	cp -a alone spread
	rm -r spread/distilled.ts spread/log/distilled*
	PATH=$PWD/ssh:$PATH run_into spread --sshlogin one,two --jobs 1 &
	first=$!
	until_so halts "$(cat ssh/two/pid)" # so that its unit does not end before the host does
	# shellcheck disable=SC2046 # numbers
	kill -"$1" $(children "$(cat ssh/two/pid)")
	wait "$first" || { cat spread.err && return 1; }
	# shellcheck disable=SC2046
	[ "$1" = KILL ] || kill -KILL $(children "$(cat ssh/two/pid)")
	kill "$(cat ssh/one/pid)"
	cmp spread/distilled.ts alone/distilled.ts
	cmp spread/table.tsv alone/table.tsv
	cut -f 2,7,8 spread/log/units.tsv
	[ "$(awk '$7 == 0 { print $2 }' spread/log/units.tsv | sort | uniq -c | tr -s ' ')" = " 4 one" ]
	# What was lost is at most what was done since it was last saved.
	for file in spread/log/distilled.ts-*.json; do
		sed -n 's/.*"step": \([0-9]*\),.*/\1/p' "$file" | sort -n | uniq -d | wc -l
	done | awk '$1 > 2 { exit 1 }'
}

@test "units are spread over two hosts; one is lost half-way, and the others do its work" {
	two_hosts KILL
}

@test "a host that falls silent is given up" {
	two_hosts STOP
}
