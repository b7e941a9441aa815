# Products that several claims use, so that they are made once: data, teachers, initial images, statistics; and what
# makes images of them. Settings come as variables: synth_lr=0.4 distil NAME.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # settings; alias is of rows.sh

# data_set NAME: its files, in $train and $test; false when they are not there. Options of load-images in $load.
data_set()
{
	local at

	train='' test='' load=''
	case $1 in
	cifar10)
		at=$data/cifar10
		if [ -e "$data/cifar-10-batches-bin" ]; then
			at=$data/cifar-10-batches-bin train=$(echo "$at"/data_batch_*.bin) test=$at/test_batch.bin
		else
			train=$(first_of "$at"/train "$at"/train.tar*) test=$(first_of "$at"/test "$at"/test.tar*)
		fi
		;;
	fashion)
		at=$data/fashion-mnist
		train=$(first_of "$at"/train-images-idx3-ubyte*) test=$(first_of "$at"/t10k-images-idx3-ubyte*)
		;;
	tiny)
		at=$data/tiny-imagenet
		train=$(first_of "$at"/train "$at"/train-0.tar*) test=$(first_of "$at"/val "$at"/val.tar*)
		load="-s 32 --classes $tiny_classes"
		;;
	sample)
		at=$here/../sample
		train=$at/train-images-idx3-ubyte.gz test=$at/t10k-images-idx3-ubyte.gz load="--classes @$at/CLASSES"
		;;
	esac
	[ -n "$train" ] && [ -n "$test" ]
}

# first_of FILE...: the first that exists
first_of()
{
	local file

	for file; do
		[ ! -e "$file" ] || { echo "$file" && return; }
	done
}

tiny_classes=n01443537,n01629819,n01641577,n01644900,n01698640,n01742172,n01768244,n01770393,n01774384,n01774750
tiny_classes+=,n01784675,n01855672,n01882714,n01910747,n01917289,n01944390,n01945685,n01950731,n01983481,n01984695

# shellcheck disable=SC2016 # "need" expands the lines
data_products()
{
	case $dataset in
	*-val)
		# A validation split takes every tenth image of the training set; the test set is not looked at.
		product all.ts "all training images" 'load-images $load $train'
		product train.ts "training images but every tenth" 'tscut -i 1-:10,2-:10,3-:10,4-:10,5-:10,6-:10,7-:10,8-:10,9-:10 all.ts'
		product test.ts "every tenth training image" 'tscut -i 0-:10 all.ts'
		;;
	*)
		product train.ts "training images" 'load-images $load $train'
		product test.ts "test images" 'load-images $load $test'
		;;
	esac
}

# teachers: the training run, and the pools that are parts of it
teachers()
{
	local name stop=

	# A search has no use for the converged ones.
	[[ $dataset != *-val ]] || stop=" -l ${weak##*,}"
	product pool-run.tar "teachers: $arch, $epochs epochs" \
		"train-ckpt -a $arch -e $epochs$stop $teacher --seed 0 -t test.ts <train.ts"
	part pool-full.tar "$epochs"
	for name in weak early middle late; do
		part "pool-$name.tar" "${!name}"
	done
}

# part POOL EPOCHS: of the run; 0 epochs of training change nothing
part()
{
	local epoch places=

	for epoch in ${2//,/ }; do
		places+=${places:+,}$((epoch - 1))
	done
	product "$1" "epochs $2 of the run" "train-ckpt -i pool-run.tar -e 0 --only $places --no-recalibrate <train.ts"
}

# initial IPC [SEED]: images that synthesis starts from, and noise
initial()
{
	local seed=${2-0} tag

	tag=$1${2:+-$2}
	product "real-$tag.ts" "$1 real images a class" "synth-init -i $1 --seed $seed <train.ts"
	product "noise-$tag.ts" "$1 images of noise a class" "synth-init -i $1 --from noise --seed $seed <train.ts"
}

# statistics POOL: over all images and class by class
statistics()
{
	local name=${1#pool-}

	product "stats-${name%.*}.ts" "statistics of ${name%.*}" "bnstats -p $1 --classwise <train.ts"
}

# distil NAME [OPTIONS]: images by $pool from $init, by $match or else "running", with an option of synth-step behind
distil()
{
	local of=${pool#pool-} stats options=${*:2} base

	case $options in
	"--draw index" | "--ensemble logits" | "--wd 0") options= ;; # by default
	esac
	stats="-s stats-${of%.*}.ts --match $match"

	statistics "$pool"
	[ "$match" != running ] || stats='--match global'
	product "$1" "synthesis of ${1%.*}" "synth-step -p $pool $stats -N $iterations --lr $synth_lr --alpha $alpha\
 --teachers $teachers${options:+ $options} --seed ${seed-0} <$init"
	for base in base.ts base-noise.ts; do
		[ "$1" = "$base" ] || [ "${line[$1]}" != "${line[$base]-}" ] || alias[$1]=$base
	done
}

# dm_images NAME IPC SEED [OPTIONS]: distribution matching, with networks that nobody has trained; images start as real
# ones, or as $from=noise
dm_images()
{
	local prior=${4---ce 0} units=units-$2-$3.ts

	product pool-untrained.tar "$dm_nets untrained networks" "train-ckpt -a $student -e 0 -n $dm_nets --seed 0 <train.ts"
	# All in one unit: units of a class would each build every network's plan.
	product "$units" "$2 real images a class, one unit" "synth-init -i $2 --unit 1000 --seed $3 <train.ts"
	if [ "${from-real}" = noise ]; then
		units=units-noise-$2-$3.ts
		product "$units" "$2 images of noise a class, one unit" "synth-init -i $2 --unit 1000 --from noise --seed $3 <train.ts"
	fi
	product "$1" "DM, ${1%.*}" "synth-step -p pool-untrained.tar --real train.ts --match features $prior --aug dsa\
 --opt sgd --momentum 0.5 --sched const --teachers 1 --draw iteration $dm_opts --seed $3 <$units"
}

# of_count COUNT LIST: the value that COUNT images a class have in COUNT:VALUE,...
of_count()
{
	[[ ,$2 =~ ,$1:([^,]*) ]] || die "$2: nothing for $1 images a class"
	echo "${BASH_REMATCH[1]}"
}

# prior_images NAME IPC SEED: the same features, and a pool of weak teachers, which must recognise the images
prior_images()
{
	local pool rate batch

	pool=$(of_count "$2" "$prior_pools")
	rate=$(of_count "$2" "$prior_rates")
	batch=$(of_count "$2" "$prior_batches")
	dm_opts=${prior_opts/RATE/$rate}${batch:+ --real-batch $batch} dm_images "$1" "$2" "$3" \
		"--prior pool-$pool.tar --prior-teachers $prior_teachers --ce $prior_ce"
}

# beside COLUMN: random images on hard labels, whose row the claims share
beside()
{
	hard "random-$ipc" "random real" "$1" "real-$ipc.ts"
}

# sre2l_images NAME IPC SEED: one converged teacher, its running statistics, from noise
sre2l_images()
{
	initial "$2" "$3"
	product "$1" "SRe2L, ${1%.*}" "synth-step -p pool-full.tar --teachers 1 --match global $sre2l_opts --seed $3\
 <noise-$2-$3.ts"
}

data_products
teachers
initial "$ipc"
pool=pool-weak.tar init=real-$ipc.ts
distil base.ts # what the claims vary
init=noise-$ipc.ts distil base-noise.ts
