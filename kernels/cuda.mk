# The CUDA backend, a shared object that programs open where --device asks for it: build/lib/teddy-cuda.so by nvcc, and
# build/emu/teddy-cuda.so of the same sources for the emulated device of tests/emu, which needs neither toolkit nor GPU.

# A toolkit's folder, or that of PyPI's wheels (…/site-packages/nvidia/cu13, with cudnn beside it).
CUDA_HOME ?= /usr/local/cuda
NVCC      = $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) nvcc)
CUDA_INC  = $(addprefix -I,$(wildcard $(CUDA_HOME)/include $(CUDA_HOME)/../cudnn/include))
CUDA_LIB  = $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib $(CUDA_HOME)/../cudnn/lib)
# The wheels' libraries have names with versions alone.
cuda_lib  = $(firstword $(patsubst %,-l:%,$(notdir $(wildcard $(addsuffix /$1,$(CUDA_LIB))))) $2)
# The runtime library is linked in where it can be: then the driver, cuDNN and cuBLASLt are all that a machine must have.
CUDART    = $(if $(wildcard $(addsuffix /libcudart_static.a,$(CUDA_LIB))),-l:libcudart_static.a -lrt -lpthread -ldl \
	-Wl$(comma)--exclude-libs$(comma)libcudart_static.a,$(call cuda_lib,libcudart.so.*,-lcudart))
L_CUDA    = $(addprefix -L,$(CUDA_LIB)) -l:libcudnn.so.9 $(call cuda_lib,libcublasLt.so.*,-lcublasLt) $(CUDART) -lstdc++ -lm
comma     = ,
# Machine code for these, as far as the toolkit knows them (CUDA 12.8: 100), and what a newer card's driver compiles itself.
CUDA_ARCH = $(filter $(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch 2>/dev/null)),80 90 100)
GENCODE   = $(foreach a,$(CUDA_ARCH),-gencode arch=compute_$a,code=sm_$a) \
	-gencode arch=compute_$(lastword $(CUDA_ARCH)),code=compute_$(lastword $(CUDA_ARCH))

CU_KERNELS = $(basename $(wildcard kernels/*.cu)) kernels/launch
CU_PLAN    = lib/cuda lib/cuda_device lib/cuda_space lib/cuda_setup lib/cuda_shape lib/cuda_solo lib/cuda_synth \
	lib/cuda_features lib/cuda_graphs lib/cuda_train lib/cuda_course lib/cuda_replay
CU_DNN     = lib/cuda_dnn lib/cuda_conv lib/cuda_gemm
EMULATOR   = $(basename $(wildcard tests/emu/*.c))
CU_OBJECTS = $(addprefix build/cuda/,$(addsuffix .o,$(CU_KERNELS) $(CU_PLAN) $(CU_DNN)))
EMU_OBJECTS = $(addprefix build/emu/,$(addsuffix .o,$(CU_KERNELS) $(CU_PLAN) $(EMULATOR)))

# Programs and object must agree on every structure that passes between them.
build/abi.h: $(sort $(wildcard lib/*.h))
	@mkdir -p $(@D)
	@echo "#define DEVICE_ABI \"$$(cat $^ | cksum)\"" >$@
build/lib/device.o build/cuda/lib/cuda.o build/emu/lib/cuda.o: build/abi.h

cuda: build/lib/teddy-cuda.so
emulated: build/emu/teddy-cuda.so
.PHONY: cuda emulated

-include $(wildcard build/cuda/*/*.d build/cuda/*/*/*.d build/emu/*/*.d build/emu/*/*/*.d build/emu-san/*/*.d build/emu-san/*/*/*.d)

build/cuda/kernels/%.o: kernels/%.cu
	@mkdir -p $(@D)
	$(NVCC) -std=c++17 -O3 $(GENCODE) -Xcompiler -fPIC,-Wall,-Wextra -Xptxas -v -MMD -MP -c -o $@ $< 2>$(@:.o=.ptxas) || \
		{ cat $(@:.o=.ptxas) >&2; exit 1; }
	@! grep -i warning $(@:.o=.ptxas) >&2
build/cuda/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(STD) $(CUDA_INC) -fPIC -c -o $@ $<
# What it shares with the programs it finds in them. Here it knows this machine's toolkit, in a bundle its own folder alone.
build/lib/teddy-cuda.so: RPATH = $(subst $() ,:,$(CUDA_LIB))
build/bundle/teddy-cuda.so: RPATH = '$$ORIGIN',--disable-new-dtags,--build-id=none
build/lib/teddy-cuda.so build/bundle/teddy-cuda.so: $(CU_OBJECTS)
	@mkdir -p $(@D)
	$(CC) -shared $(LDFLAGS) -o $@ $^ -Wl,-rpath,$(RPATH) $(L_CUDA)

EMU_FLAGS = $(CFLAGS) -Wall -Wextra -Wno-unknown-pragmas -fno-strict-aliasing -ffp-contract=off -fdata-sections -fPIC \
	-DGPU_EMULATED -D_GNU_SOURCE -Itests/emu/include -MMD -MP
SANITIZE  = -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
build/emu/%.o: %.cu
	@mkdir -p $(@D)
	g++ -x c++ -std=c++17 $(EMU_FLAGS) -Wno-sign-compare -c -o $@ $<
build/emu/%.o: %.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 $(EMU_FLAGS) -c -o $@ $<
build/emu-san/%.o: %.cu
	@mkdir -p $(@D)
	g++ -x c++ -std=c++17 $(EMU_FLAGS) $(SANITIZE) -Wno-sign-compare -c -o $@ $<
build/emu-san/%.o: %.c
	@mkdir -p $(@D)
	$(CC) -std=gnu11 $(EMU_FLAGS) $(SANITIZE) -c -o $@ $<
build/emu/teddy-cuda.so: $(EMU_OBJECTS) tests/emu/shared.ld
	g++ -shared -Wl,-T,tests/emu/shared.ld -o $@ $(EMU_OBJECTS) -lm -lpthread

# The kernels' own tests, on the emulated device; in build/emu-san under the sanitizers. What they compare with: lib's
# functions for the CPU.
GPU_TESTS  = $(patsubst tests/%.c,build/emu/tests/%,$(wildcard tests/t_gpu_*.c))
GPU_SANE   = $(patsubst build/emu/%,build/emu-san/%,$(GPU_TESTS))
GPU_PLAIN  = lib/util lib/times lib/rng lib/view lib/dsa lib/mix lib/loss lib/match lib/optim
EMU_TESTED = $(addsuffix .o,$(CU_KERNELS) $(EMULATOR) tests/emu/probe lib/cuda_space $(GPU_PLAIN))
build/emu/tests/t_gpu_%: build/emu/tests/t_gpu_%.o $(addprefix build/emu/,$(EMU_TESTED)) tests/emu/shared.ld
	g++ -Wl,-T,tests/emu/shared.ld -o $@ $(filter %.o,$^) -lm -lpthread
build/emu-san/tests/t_gpu_%: build/emu-san/tests/t_gpu_%.o $(addprefix build/emu-san/,$(EMU_TESTED)) tests/emu/shared.ld
	g++ $(SANITIZE) -Wl,-T,tests/emu/shared.ld -o $@ $(filter %.o,$^) -lm -lpthread
gpu-sane: $(GPU_SANE)
.PHONY: gpu-sane

# The same on a real device, and what the benchmark says of the kernels; cuDNN where the seam to it is tested.
GPU_REAL = $(patsubst build/emu/%,build/cuda/%,$(filter-out %/t_gpu_emu,$(GPU_TESTS))) build/cuda/tests/bench/kernels
GPU_REAL_OBJECTS = $(addprefix build/cuda/,$(addsuffix .o,$(CU_KERNELS) $(CU_DNN) lib/cuda_space $(GPU_PLAIN)))
$(GPU_REAL): build/cuda/%: build/cuda/%.o $(GPU_REAL_OBJECTS)
	$(CC) $(LDFLAGS) -fopenmp -o $@ $^ $(addprefix -Wl$(comma)-rpath$(comma),$(CUDA_LIB)) $(L_CUDA)
build/emu/tests/bench/kernels: build/emu/tests/bench/kernels.o $(addprefix build/emu/,$(EMU_TESTED)) tests/emu/shared.ld
	g++ -Wl,-T,tests/emu/shared.ld -o $@ $(filter %.o,$^) -lm -lpthread
# Asks cuDNN for its engines without a device.
CUDNN_TEST = $(addprefix build/cuda/,$(addsuffix .o,tests/tools/cudnn tests/tools/cuda_conv lib/cuda_shape lib/util lib/net \
	lib/arch lib/arch_plain lib/arch_residual lib/arch_mobile lib/rng))
build/cuda/tests/tools/cuda_conv.o: lib/cuda_conv.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(STD) $(CUDA_INC) -DcudnnBackendSetAttribute=test_set_attribute -DcudnnBackendFinalize=test_finalize -c -o $@ $<
build/cuda/tests/tools/cudnn: $(CUDNN_TEST)
	$(CC) $(LDFLAGS) -o $@ $^ $(addprefix -Wl$(comma)-rpath$(comma),$(CUDA_LIB)) $(addprefix -L,$(CUDA_LIB)) -l:libcudnn.so.9 -lm
gpu-tests: $(GPU_REAL)
.PHONY: gpu-tests
