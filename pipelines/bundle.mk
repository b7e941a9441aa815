# make bundle: build/teddy-VERSION-x86_64.tar.xz, which runs unpacked on another machine (bundle.7). NVIDIA=1 packs
# NVIDIA's libraries too, BUNDLE_XZ says how hard xz tries, BUNDLE_INTO where the tar goes.
BUNDLE_XZ   = $(if $(NVIDIA),--lzma2=preset=1,--x86 --lzma2=preset=9e)
BUNDLE_INTO = build

# What tests/gpu runs besides the filters, for the day a GPU is there.
GPU_TRIED = build/tests/t_ops build/tests/t_net build/tests/t_zoo build/tests/bench/bench build/tests/tools/tsdiff $(GPU_REAL)

# Programs are linked once more, in a tree that shares sources and objects with this one but for programs' own.
RELINK   = build/bundle/tree
RELINKED = GNUmakefile config.mk bin formats kernels lib man pipelines tests build/formats build/kernels build/lib \
	build/cuda/kernels build/cuda/lib
relink   = $(MAKE) --no-print-directory -s -C $(RELINK) RELINKING=1

bundle: all build/lib/slim_archive.o
	@rm -rf build/bundle && mkdir -p $(RELINK)/build/bin $(RELINK)/build/cuda
	@$(foreach f,$(RELINKED),ln -s "$(CURDIR)/$f" $(RELINK)/$f;)
	@$(foreach p,$(PROGS),ln -s "$(CURDIR)/build/bin/$p.o" $(RELINK)/build/bin/$p.o;)
	+@$(relink) $(PROGS:%=build/bin/%)
	@$(if $(shell command -v $(NVCC)),$(MAKE) --no-print-directory -s bundle-cuda,\
		echo "bundle: without the CUDA backend, as there is no nvcc (CUDA_HOME)" >&2)
	@NVIDIA="$(NVIDIA)" CUDA_HOME="$(CUDA_HOME)" CUDA_LIB="$(CUDA_LIB)" XZ_OPT="$(BUNDLE_XZ)" \
		pipelines/bundle "$(BUNDLE_INTO)" $(PROGS)
bundle-cuda: build/bundle/teddy-cuda.so $(GPU_TRIED)
	@cd build && find tests cuda/tests -name '*.o' | while read -r o; do mkdir -p bundle/tree/build/$${o%/*} && \
		ln -s "$(CURDIR)/build/$$o" bundle/tree/build/$$o; done
	+@$(relink) $(GPU_TRIED)
.PHONY: bundle bundle-cuda

ifdef RELINKING
# Their own folder first. A machine's libstdc++ goes before the bundle's, which asks for more of glibc than all else does
# and stands in where there is none.
UP = ..
$(filter build/tests/% build/cuda/%,$(GPU_TRIED)): UP = ../..
build/tests/t_ops build/tests/t_net build/tests/t_zoo: UP = ..
$(filter build/cuda/tests/bench/%,$(GPU_TRIED)): UP = ../../..
BUNDLE_RPATH = $$ORIGIN/$(UP)/lib /usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu /usr/lib64 /lib64 \
	$$ORIGIN/$(UP)/lib/gcc
override LDFLAGS += -Wl,--build-id=none,--disable-new-dtags,-rpath,'$(subst $() ,:,$(BUNDLE_RPATH))'
# libarchive is linked in, for its shared object needs an XML library that needs Unicode's data.
ifneq ($(wildcard /usr/lib/*/libarchive.a /usr/lib64/libarchive.a),)
override L_POOL = build/lib/slim_archive.o -l:libarchive.a
override L_SOURCES = build/lib/slim_archive.o -l:libarchive.a -lz -l:libzstd.so.1 -llzma -ljansson
endif
endif
