# What the tests of formats, synthesis and bad input share: the built programs, small data, one look at a failure.
# shellcheck shell=bash

root=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
python=${PYTHON:-/usr/bin/python3}
export root python PATH="$root/build/bin:$PATH" PYTHONPATH="$root/tests" PYTHONDONTWRITEBYTECODE=1 LC_ALL=C
# The runner keeps all cores busy; nets this small are no faster with two threads. Tests of threads say --threads.
export OMP_NUM_THREADS=1

# Small files in the current folder: train.ts, val.ts, pool.tar of four networks, stats.ts, init.ts of three units.
small_files()
{
	ln -s "$root/pipelines/sample" sample
	load-images -n 20 --classes @sample/CLASSES -o train.ts sample/train-images-idx3-ubyte.gz
	load-images -n 20 --classes @sample/CLASSES -o val.ts sample/t10k-images-idx3-ubyte.gz
	train-ckpt -a convnet2-16 -e 4 -b 50 --lr 0.02 -o pool.tar <train.ts
	bnstats -p pool.tar --classwise -o stats.ts <train.ts
	synth-init -i 12 --unit 50 -o init.ts <train.ts
}

# fails WORDS COMMAND...: exit status 1 and one line on standard error: the program's name first, the words in it
fails()
{
	local words=$1 status=0

	shift
	"$@" >fails.out 2>fails.err || status=$?
	if [ "$status" -ne 1 ] || [ "$(wc -l <fails.err)" -ne 1 ] || ! grep -q "^[a-z-]*: .*$words" fails.err; then
		echo "exit status $status of: $*"
		head -5 fails.err
		return 1
	fi
}
