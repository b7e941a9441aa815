# What a run takes of the machine: its folder, which no other run may use, and the device that filters compute on.
# Sourced by steps.sh, whose variables and functions these are.
# shellcheck shell=bash
# shellcheck disable=SC2154 # out, log, device, gpus, per_gpu, jobs
# shellcheck disable=SC2034 # slots

# own_folder: what would be replaced or deleted in it is of this pipeline; $whose: its name, where it is not that of the
# program
own_folder()
{
	local had

	whose=${whose:-${0##*/}}
	if [ -e "$out/log/pipeline" ]; then
		had=$(<"$out/log/pipeline")
		[ "$had" = "$whose" ] || die "$out: it is of a run of $had; $whose needs a folder of its own"
	elif [ -d "$out" ] && [ ! -d "$out/log" ] && [ -n "$(ls -A "$out")" ]; then
		die "$out: it has something else in it; a new or an empty folder is needed"
	fi
}

# within FOLDER: the outcome would lie in it, and be taken for a part of it
within()
{
	[ -d "$1" ] && [[ $(realpath -m "$out")/ == "$(realpath "$1")"/* ]]
}

# Every process of a run inherits the lock of its folder, so that what a killed run left behind is known by it.

# started PID: when, in clock ticks since boot; fails when it is no more
started()
{
	local line

	read -r line 2>/dev/null <"/proc/$1/stat" || return
	read -ra line <<<"${line##*) }"
	[ "${line[0]}" != Z ] && echo "${line[19]}"
}

# holders FILE: the processes that have it open
holders()
{
	local fd

	for fd in /proc/[0-9]*/fd/*; do
		[ ! "$fd" -ef "$1" ] || echo "$fd" | cut -d / -f 3
	done | sort -u
}

take_folder()
{
	local lock=$log/lock gate host pid since signal left

	exec {gate}>"$log/gate"
	flock "$gate"
	exec {lock_fd}>>"$lock"
	if ! flock -n "$lock_fd"; then
		exec {lock_fd}>&-
		read -r host pid since <"$lock" || true
		if [ "$host" != "$HOSTNAME" ] || [ "$(started "$pid")" = "$since" ]; then
			die "$out: another run is at work here, process $pid of $host"
		fi
		for signal in TERM KILL; do
			left=$(holders "$lock")
			# shellcheck disable=SC2086 # numbers
			[ -z "$left" ] || kill -$signal $left 2>/dev/null || true
			! flock -w 5 "$lock" true || break
		done
		exec {lock_fd}>>"$lock"
		flock -w 5 "$lock_fd" || die "$out: what a killed run left behind does not end"
	fi
	echo "$HOSTNAME $$ $(started $$)" >"$lock"
	exec {gate}>&-
}

# check_device: what --device, --gpus and --per-gpu say, in variables of these names
check_device()
{
	local gpu seen=,

	[ -z "$gpus" ] || device=${device:-cuda}
	device=${device:-${TEDDY_DEVICE:-cpu}}
	[[ $device =~ ^(cpu|cuda|auto)$ ]] || bad "--device $device: cpu, cuda or auto expected"
	[ -z "$gpus" ] || [ "$device" = cuda ] || bad "--gpus $gpus: not with --device $device"
	[ -z "$jobs" ] || [ "$device" != cuda ] || bad "--jobs $jobs: on GPUs, --per-gpu says it"
	IFS=, read -ra gpu_list <<<"$gpus"
	for gpu in "${gpu_list[@]}"; do
		[[ $gpu =~ ^([0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+)$ ]] || bad "--gpus $gpus: '$gpu' is no GPU"
		[[ $seen != *,$gpu,* ]] || bad "--gpus $gpus: $gpu stands there twice"
		seen+=$gpu,
	done
}

# gpu_there [WHICH]: filters can open it; says why not
gpu_there()
{
	local said

	[ $# -eq 0 ] || local -x CUDA_VISIBLE_DEVICES=$1
	said=$(synth-step --device cuda -h 2>&1 >/dev/null) || { echo "${0##*/}: ${1:+GPU $1: }${said#*: }" >&2; false; }
}

# take_device: every filter computes on it from now on, the first one of several. $slots: jobs at a time, on GPUs.
take_device()
{
	local gpu

	slots=''
	if [ "$device" = auto ]; then
		device=cpu
		! gpu_there 2>/dev/null || device=cuda
	fi
	export TEDDY_DEVICE=$device
	[ "$device" = cuda ] || return 0
	if [ -n "$gpus" ]; then
		export CUDA_DEVICE_ORDER=PCI_BUS_ID # so that numbers are those of nvidia-smi
		for gpu in "${gpu_list[@]}"; do
			gpu_there "$gpu" || exit 1
		done
		export CUDA_VISIBLE_DEVICES=${gpu_list[0]}
	else
		gpu_there || exit 1
	fi
	slots=$((${#gpu_list[@]} > 1 ? per_gpu * ${#gpu_list[@]} : per_gpu))
}

# on_gpu SLOT COMMAND...: a job of GNU parallel, on its slot's GPU. One that fails beside others on a GPU may have lacked
# memory: it is done once more when it has the GPU to itself.
on_gpu()
{
	local list lock slot=$1 words

	shift
	words=$*
	if [ -n "$gpus" ]; then
		IFS=, read -ra list <<<"$gpus"
		export CUDA_VISIBLE_DEVICES=${list[(slot - 1) % ${#list[@]}]}
	fi
	[ "$per_gpu" -gt 1 ] || { "$@"; return; }
	exec {lock}>"$log/gpu-${CUDA_VISIBLE_DEVICES//[^0-9A-Za-z-]/_}.lock"
	flock -s "$lock"
	bash -c '"$@"' bash "$@" && return
	echo "once more, with the GPU to itself: ${words#as_told }" >&2
	flock -x "$lock"
	"$@"
}
