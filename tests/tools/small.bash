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

# mixed.tar: two networks of pool.tar, of which the first's logits overflow; sane.ts: the second
mixed_pool()
{
	"$python" - <<-'END'
	import io, tarfile, numpy as np, tstream, xxhash
	whole = tarfile.open("pool.tar")
	member = {m.name: whole.extractfile(m).read() for m in whole if m.name != "MANIFEST"}
	name, good = next(iter(member.items()))
	open("sane.ts", "wb").write(good)
	h, frames = tstream.read("sane.ts")
	w = tstream.Writer("huge.ts", "checkpoint", h)
	for f in frames:
	    w.put({k: v * np.float32(1e30) if k.endswith(".weight") else v for k, v in f.items()})
	w.finish()
	out = {"0/0.ts": open("huge.ts", "rb").read(), "0/1.ts": good}
	lines = [f"{xxhash.xxh3_128_hexdigest(v)}  {k}\n" for k, v in out.items()]
	with tarfile.open("mixed.tar", "w") as tar:
	    for k, v in [*out.items(), ("MANIFEST", "".join(lines).encode())]:
	        info = tarfile.TarInfo(k)
	        info.size = len(v)
	        tar.addfile(info, io.BytesIO(v))
	END
}

# fails WORDS COMMAND...: exit status 1 and one line on standard error: the program's name first, the words in it
fails()
{
	ends 1 "$@"
}

# misused WORDS COMMAND...: the same with status 2
misused()
{
	ends 2 "$@"
}

ends()
{
	local wanted=$1 words=$2 status=0

	shift 2
	"$@" >fails.out 2>fails.err || status=$?
	if [ "$status" -ne "$wanted" ] || [ "$(wc -l <fails.err)" -ne 1 ] || ! grep -q "^[a-z-]*: .*$words" fails.err; then
		echo "exit status $status of: $*"
		head -5 fails.err
		return 1
	fi
}
