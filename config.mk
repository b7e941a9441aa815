# Paths and flags; override on the command line: make PREFIX=$HOME/.local
PREFIX  = /usr/local
DESTDIR =
BINDIR  = $(PREFIX)/bin
MANDIR  = $(PREFIX)/share/man

CC      = gcc
CFLAGS  = -O2 -g
LDFLAGS =

# Never fast-math: results must not depend on what a compiler thinks of associativity, nor on whether -march=native has it
# fuse products and sums. (Kernels are compiled for an instruction set each, and do fuse.)
STD     = -std=gnu11 -ffp-contract=off -Wall -Wextra -fopenmp -D_GNU_SOURCE -MMD -MP

# msgpack-c's library for C has another name since its release 6.
L_MSGPACK = $(if $(wildcard /usr/lib/*/libmsgpack-c.so /usr/lib64/libmsgpack-c.so),-lmsgpack-c,-lmsgpackc)
