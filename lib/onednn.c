/* The one file that knows oneDNN, whose versions 2 and 3 differ in how things are described. Primitives are made for one
 * thread and one image (weight gradients: one chunk), so that their blocking, and with it every rounding, is the same
 * however many threads the caller uses (in training: as long as they are as many). Several threads run one primitive at a
 * time, which oneDNN allows only where the scratchpad is the caller's. */
#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conv.h"
#include "plan.h"

/* A description of memory is a struct in version 2, an owned pointer in version 3. */
typedef dnnl_memory_desc_t desc;
#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t query_desc;
#define MD(d) (d)
#else
typedef const dnnl_memory_desc_t *query_desc;
#define MD(d) (&(d))
#endif

struct primitive {
	dnnl_primitive_t prim;
	desc src, weights, dst, bias; /* the two inputs and the output of convolution, whatever direction */
	desc pad;                     /* its scratchpad */
	size_t weights_floats;
	char impl[48];
	dnnl_memory_t (*mem)[5]; /* [MAX_THREADS][src, weights, dst, scratchpad, bias], made by a thread on first use */
	bool has_bias, fixed_weights; /* fixed: their layout was given, not chosen */
};

struct dnn_conv {
	struct conv_shape s;       /* channels, the image's excepted, rounded up to 8: what oneDNN's fast code likes best */
	int ic, oc;                /* as the weights have them */
	int border;                /* zeros put around an image first: oneDNN's fast code pads by less than the kernel */
	float *bordered[MAX_THREADS];
	int wgrad_batch;
	struct primitive fwd, dgrad, wgrad, wgrad1;
};

static dnnl_engine_t engine;
static _Thread_local dnnl_stream_t stream;
static _Thread_local float *pad;
static _Thread_local size_t npad;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void check(dnnl_status_t s, const char *what)
{
	if (s != dnnl_success)
		die("oneDNN: %s failed (status %d)", what, s);
}

void dnn_pin(const char *isa)
{
	dnnl_set_max_cpu_isa(!strcmp(isa, "plain") ? dnnl_cpu_isa_sse41 : !strcmp(isa, "avx2") ? dnnl_cpu_isa_avx2 : dnnl_cpu_isa_avx512_core);
}

static void start(void)
{
	check(dnnl_engine_create(&engine, dnnl_cpu, 0), "engine");
}

static dnnl_stream_t own_stream(void)
{
	if (!stream)
		check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "stream");
	return stream;
}

static float *own_pad(size_t bytes)
{
	if (bytes > npad) {
		free(pad);
		pad = ealigned(bytes, 1);
		npad = bytes;
	}
	return pad;
}

static desc describe(int ndim, const dnnl_dims_t dims, dnnl_format_tag_t tag)
{
	desc md;

#if DNNL_VERSION_MAJOR >= 3
	check(dnnl_memory_desc_create_with_tag(&md, ndim, dims, dnnl_f32, tag), "memory descriptor");
#else
	check(dnnl_memory_desc_init_by_tag(&md, ndim, dims, dnnl_f32, tag), "memory descriptor");
#endif
	return md;
}

static desc copy_desc(query_desc md)
{
	desc copy;

#if DNNL_VERSION_MAJOR >= 3
	check(dnnl_memory_desc_clone(&copy, md), "memory descriptor");
#else
	copy = *md;
#endif
	return copy;
}

static void free_desc(desc *md)
{
#if DNNL_VERSION_MAJOR >= 3
	if (*md)
		dnnl_memory_desc_destroy(*md);
#endif
	memset(md, 0, sizeof *md);
}

static dnnl_memory_t memory(query_desc md, void *p)
{
	dnnl_memory_t m;

	check(dnnl_memory_create(&m, md, engine, p), "memory");
	return m;
}

static desc weights_desc(const struct conv_shape *s, dnnl_format_tag_t tag)
{
	dnnl_dims_t dims = { s->oc, s->ic, s->k, s->k };

	return describe(4, dims, tag);
}

/* A primitive descriptor of one direction; hint: that of the forward one, for the others. */
static dnnl_status_t describe_conv(dnnl_primitive_desc_t *pd, int dir, dnnl_primitive_desc_t hint, const struct primitive *p,
    const desc *w, const desc *bias, const dnnl_dims_t strides, const dnnl_dims_t front, const dnnl_dims_t back,
    dnnl_primitive_attr_t attr)
{
	const dnnl_alg_kind_t direct = dnnl_convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
	const dnnl_dims_t dense = { 0 };

	if (dir == CONV_FWD)
		return dnnl_convolution_forward_primitive_desc_create(pd, engine, dnnl_forward_training, direct, p->src, *w, *bias,
		    p->dst, strides, dense, front, back, attr);
	if (dir == CONV_DGRAD)
		return dnnl_convolution_backward_data_primitive_desc_create(pd, engine, direct, p->src, *w, p->dst, strides, dense,
		    front, back, hint, attr);
	return dnnl_convolution_backward_weights_primitive_desc_create(pd, engine, direct, p->src, *w, *bias, p->dst, strides,
	    dense, front, back, hint, attr);
#else
	dnnl_convolution_desc_t cd;
	dnnl_status_t st;

	if (dir == CONV_FWD)
		st = dnnl_convolution_forward_desc_init(&cd, dnnl_forward_training, direct, &p->src, w, bias, &p->dst, strides,
		    front, back);
	else if (dir == CONV_DGRAD)
		st = dnnl_convolution_backward_data_desc_init(&cd, direct, &p->src, w, &p->dst, strides, front, back);
	else
		st = dnnl_convolution_backward_weights_desc_init(&cd, direct, &p->src, w, bias, &p->dst, strides, front, back);
	return st == dnnl_success ? dnnl_primitive_desc_create(pd, &cd, attr, engine, hint) : st;
#endif
}

/* One direction for n images. Layouts of features are fixed, that of weights is oneDNN's choice. False where it would run
 * its reference, or nothing at all. */
static bool make(struct primitive *p, const struct conv_shape *s, int dir, int n)
{
	bool image_gradient = dir == CONV_DGRAD && s->plain_src;
	dnnl_dims_t src = { n, s->ic, s->ih, s->iw }, dst = { n, s->oc, s->oh, s->ow }, bias = { s->oc };
	dnnl_dims_t strides = { s->stride, s->stride };
	/* Padding at the end as much as the last window needs, which is less than at the front under a stride. */
	int reach_h = (s->oh - 1) * s->stride + s->k - s->pad - s->ih, reach_w = (s->ow - 1) * s->stride + s->k - s->pad - s->iw;
	dnnl_dims_t front = { s->pad, s->pad }, back = { reach_h, reach_w };
	desc wd, none;
	dnnl_primitive_desc_t pd = NULL, hint = NULL;
	dnnl_primitive_attr_t attr;
	dnnl_status_t st;
	int nthread = omp_get_max_threads();

	memset(&none, 0, sizeof none);
	p->src = describe(4, src, s->plain_src && !image_gradient ? dnnl_nchw : dnnl_nChw8c);
	p->dst = describe(4, dst, dnnl_nChw8c);
	p->bias = describe(1, bias, dnnl_x);
	/* A single image's weight gradient must come in the layout that the chunk's has. */
	wd = p->fixed_weights ? copy_desc(MD(p->weights)) : weights_desc(s, dnnl_format_tag_any);
	p->has_bias = dir == CONV_FWD;
	check(dnnl_primitive_attr_create(&attr), "attributes");
	check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), "attributes");
	omp_set_num_threads(1);
	st = describe_conv(&hint, CONV_FWD, NULL, p, &wd, dir == CONV_FWD ? &p->bias : &none, strides, front, back, attr);
	if (st == dnnl_success && dir != CONV_FWD) {
		st = describe_conv(&pd, dir, hint, p, &wd, &none, strides, front, back, attr);
		dnnl_primitive_desc_destroy(hint);
	} else
		pd = hint;
	free_desc(&wd);
	dnnl_primitive_attr_destroy(attr);
	if (st == dnnl_success)
		st = dnnl_primitive_create(&p->prim, pd);
	omp_set_num_threads(nthread);
	if (st != dnnl_success)
		return false;
	free_desc(&p->weights);
	p->weights = copy_desc(dnnl_primitive_desc_query_md(pd,
	    dir == CONV_WGRAD ? dnnl_query_diff_weights_md : dnnl_query_weights_md, 0));
	p->pad = copy_desc(dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0));
	p->weights_floats = (dnnl_memory_desc_get_size(MD(p->weights)) + 3) / 4;
	const char *impl = "";
	dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &impl);
	snprintf(p->impl, sizeof p->impl, "onednn:%s", impl);
	bool slow = strstr(impl, "ref");
	dnnl_primitive_desc_destroy(pd);
	if (slow)
		return false;
	p->mem = ecalloc(MAX_THREADS, sizeof *p->mem);
	return true;
}

int dnn_conv_new(struct dnn_conv **out, const struct conv_shape *s, int want, int wgrad_batch)
{
	struct dnn_conv *c = ecalloc(1, sizeof *c);
	struct conv_shape inner = *s;
	int have = 0;

	pthread_once(&once, start);
	inner.oc = (s->oc + 7) / 8 * 8;
	inner.ic = s->plain_src ? s->ic : (s->ic + 7) / 8 * 8;
	c->oc = s->oc, c->ic = s->ic;
	c->s = inner;
	s = &c->s;
	c->wgrad_batch = wgrad_batch;
	if (s->plain_src && s->pad >= s->k) {
		c->border = s->pad - s->k / 2;
		inner.ih += 2 * c->border, inner.iw += 2 * c->border, inner.pad -= c->border;
		s = &inner;
	}
	if (want & CONV_FWD && make(&c->fwd, s, CONV_FWD, 1))
		have |= CONV_FWD;
	if (want & CONV_DGRAD && make(&c->dgrad, s, CONV_DGRAD, 1))
		have |= CONV_DGRAD;
	if (want & CONV_WGRAD && make(&c->wgrad, s, CONV_WGRAD, wgrad_batch)) {
		c->wgrad1.weights = copy_desc(MD(c->wgrad.weights));
		c->wgrad1.fixed_weights = true;
		if (make(&c->wgrad1, s, CONV_WGRAD, 1))
			have |= CONV_WGRAD;
	}
	*out = c;
	return have;
}

static void unmake(struct primitive *p)
{
	if (p->prim)
		dnnl_primitive_destroy(p->prim);
	for (int i = 0; p->mem && i < MAX_THREADS; i++)
		for (size_t j = 0; j < LEN(p->mem[i]); j++)
			if (p->mem[i][j])
				dnnl_memory_destroy(p->mem[i][j]);
	free(p->mem);
	free_desc(&p->src), free_desc(&p->weights), free_desc(&p->dst), free_desc(&p->bias), free_desc(&p->pad);
}

void dnn_conv_free(struct dnn_conv *c)
{
	if (!c)
		return;
	unmake(&c->fwd);
	unmake(&c->dgrad);
	unmake(&c->wgrad);
	unmake(&c->wgrad1);
	for (int i = 0; i < MAX_THREADS; i++)
		free(c->bordered[i]);
	free(c);
}

static struct primitive *direction(const struct dnn_conv *c, int dir)
{
	return (struct primitive *)(dir == CONV_FWD ? &c->fwd : dir == CONV_DGRAD ? &c->dgrad : &c->wgrad);
}

size_t dnn_conv_weights(const struct dnn_conv *c, int dir)
{
	return direction(c, dir)->weights_floats;
}

const char *dnn_conv_impl(const struct dnn_conv *c, int dir)
{
	return direction(c, dir)->impl;
}

static void reorder(query_desc to, float *out, query_desc from, const float *in)
{
	dnnl_primitive_desc_t pd;
	dnnl_primitive_t prim;
	dnnl_memory_t a = memory(from, (void *)in), b = memory(to, out);
	dnnl_exec_arg_t args[] = { { DNNL_ARG_FROM, a }, { DNNL_ARG_TO, b } };

	check(dnnl_reorder_primitive_desc_create(&pd, from, engine, to, engine, NULL), "reorder");
	check(dnnl_primitive_create(&prim, pd), "reorder");
	check(dnnl_primitive_execute(prim, own_stream(), LEN(args), args), "reorder");
	dnnl_primitive_destroy(prim);
	dnnl_primitive_desc_destroy(pd);
	dnnl_memory_destroy(a);
	dnnl_memory_destroy(b);
}

/* Filters (O,I,k,k) between the caller's channels and the padded ones; what is beyond is zero. */
static void copy_filters(float *to, int oc, int ic, const float *from, int from_oc, int from_ic, int kk)
{
	memset(to, 0, (size_t)oc * ic * kk * sizeof *to);
	for (int o = 0; o < MIN(oc, from_oc); o++)
		memcpy(to + (size_t)o * ic * kk, from + (size_t)o * from_ic * kk, (size_t)MIN(ic, from_ic) * kk * sizeof *to);
}

/* Room for the padded ones; NULL where padding adds nothing, so that training copies nothing at every step. */
static float *padded_filters(const struct dnn_conv *c)
{
	if (c->s.oc == c->oc && c->s.ic == c->ic)
		return NULL;
	return emalloc((size_t)c->s.oc * c->s.ic * c->s.k * c->s.k * sizeof(float));
}

void dnn_conv_prepare(struct dnn_conv *c, int dir, float *out, const float *w)
{
	desc plain = weights_desc(&c->s, dnnl_oihw);
	int kk = c->s.k * c->s.k;
	float *padded = padded_filters(c);

	if (padded)
		copy_filters(padded, c->s.oc, c->s.ic, w, c->oc, c->ic, kk);
	reorder(MD(direction(c, dir)->weights), out, MD(plain), padded ? padded : w);
	free(padded);
	free_desc(&plain);
}

void dnn_conv_unprepare(struct dnn_conv *c, float *dw, const float *in)
{
	desc plain = weights_desc(&c->s, dnnl_oihw);
	int kk = c->s.k * c->s.k;
	float *padded = padded_filters(c);

	reorder(MD(plain), padded ? padded : dw, MD(c->wgrad.weights), in);
	if (padded)
		copy_filters(dw, c->oc, c->ic, padded, c->s.oc, c->s.ic, kk);
	free(padded);
	free_desc(&plain);
}

static void run(struct primitive *p, int tid, const int arg[5], void *src, void *weights, void *dst, void *bias)
{
	dnnl_memory_t *m = p->mem[tid];
	void *ptr[] = { src, weights, dst, own_pad(dnnl_memory_desc_get_size(MD(p->pad))), bias };
	query_desc md[] = { MD(p->src), MD(p->weights), MD(p->dst), MD(p->pad), MD(p->bias) };
	dnnl_exec_arg_t args[5];
	int n = p->has_bias ? 5 : 4;

	for (int i = 0; i < n; i++) {
		if (!m[i])
			m[i] = memory(md[i], ptr[i]);
		else
			dnnl_memory_set_data_handle(m[i], ptr[i]);
		args[i] = (dnnl_exec_arg_t){ arg[i], m[i] };
	}
	check(dnnl_primitive_execute(p->prim, own_stream(), n, args), "execute");
}

/* n images with their border of zeros, in this thread's scratch. */
static const float *add_border(struct dnn_conv *c, int tid, const float *x, int n)
{
	const struct conv_shape *s = &c->s;
	int b = c->border, h = s->ih + 2 * b, w = s->iw + 2 * b;

	if (!b)
		return x;
	if (!c->bordered[tid])
		c->bordered[tid] = ealigned((size_t)MAX(c->wgrad_batch, 1) * s->ic * h * w, sizeof(float));
	for (int i = 0; i < n * s->ic; i++)
		for (int r = 0; r < s->ih; r++)
			memcpy(c->bordered[tid] + ((size_t)i * h + r + b) * w + b, x + ((size_t)i * s->ih + r) * s->iw, s->iw * sizeof *x);
	return c->bordered[tid];
}

void dnn_conv_forward(struct dnn_conv *c, int tid, float *y, const float *x, const float *w, const float *bias)
{
	static const int arg[] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD, DNNL_ARG_BIAS };

	run(&c->fwd, tid, arg, (void *)add_border(c, tid, x, 1), (void *)w, y, (void *)bias);
}

void dnn_conv_dgrad(struct dnn_conv *c, int tid, float *dx, const float *dy, const float *w)
{
	static const int arg[] = { DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST, DNNL_ARG_SCRATCHPAD, 0 };

	run(&c->dgrad, tid, arg, dx, (void *)w, (void *)dy, NULL);
}

void dnn_conv_wgrad(struct dnn_conv *c, int tid, float *dw, float *scratch, const float *x, const float *dy, int n)
{
	static const int arg[] = { DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST, DNNL_ARG_SCRATCHPAD, 0 };
	size_t nx = dnnl_memory_desc_get_size(MD(c->wgrad1.src)) / 4, ny = dnnl_memory_desc_get_size(MD(c->wgrad1.dst)) / 4;

	x = add_border(c, tid, x, n);
	if (n == c->wgrad_batch) {
		run(&c->wgrad, tid, arg, (void *)x, dw, (void *)dy, NULL);
		return;
	}
	for (int i = 0; i < n; i++) {
		run(&c->wgrad1, tid, arg, (void *)(x + i * nx), i ? scratch : dw, (void *)(dy + i * ny), NULL);
		for (size_t j = 0; i && j < c->wgrad.weights_floats; j++)
			dw[j] += scratch[j];
	}
}
