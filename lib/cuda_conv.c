/* Convolutions by cuDNN's graph API: a graph of one operation, made of descriptors. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/gpu.h"
#include "cuda_op.h"

enum { PARTS = 16 }; /* descriptors behind one plan */
static const size_t MAX_WORKSPACE = (size_t)1 << 30;

typedef cudnnBackendDescriptor_t desc;

struct conv {
	struct dnn_op op; /* first */
	desc plan, part[PARTS]; /* part: what the plan was made of, oldest first, kept for as long as the plan */
	int npart;
	size_t narrow, narrow_at; /* dw comes as so many bfloat16 in the workspace, there: no engine writes float */
};

static void free_parts(struct conv *c)
{
	while (c->npart > 0)
		cudnnBackendDestroyDescriptor(c->part[--c->npart]);
}

static void release(struct dnn_op *op)
{
	struct conv *c = (struct conv *)op;

	if (c->plan)
		cudnnBackendDestroyDescriptor(c->plan);
	free_parts(c);
}

/* Building by descriptors: each call does nothing after a failure, which is looked at once, at the end. */
struct build {
	struct conv *conv;
	cudnnStatus_t st;
};

static desc part(struct build *b, cudnnBackendDescriptorType_t type)
{
	desc d = NULL;

	if (b->st == CUDNN_STATUS_SUCCESS)
		b->st = cudnnBackendCreateDescriptor(type, &d);
	if (b->st != CUDNN_STATUS_SUCCESS)
		return NULL;
	b->conv->part[b->conv->npart++] = d;
	return d;
}

static void set(struct build *b, desc d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
    int64_t count, const void *values)
{
	if (b->st == CUDNN_STATUS_SUCCESS)
		b->st = cudnnBackendSetAttribute(d, name, type, count, values);
}

static int64_t get(struct build *b, desc d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
    int64_t room, void *values)
{
	int64_t count = 0;

	if (b->st == CUDNN_STATUS_SUCCESS)
		b->st = cudnnBackendGetAttribute(d, name, type, room, &count, values);
	return b->st == CUDNN_STATUS_SUCCESS ? count : 0;
}

static void finish(struct build *b, desc d)
{
	if (b->st == CUDNN_STATUS_SUCCESS)
		b->st = cudnnBackendFinalize(d);
}

enum { X = 'x', Y = 'y', W = 'w' }; /* tensors by name, whether values or gradients */

/* Dimensions are in the order N, C, H, W whatever the layout; strides say that channels lie innermost. */
static desc tensor(struct build *b, int64_t name, cudnnDataType_t type, const int64_t dims[4], int64_t row)
{
	desc t = part(b, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
	int64_t strides[4] = { dims[2] * dims[3] * row, 1, dims[3] * row, row }, align = OP_ALIGN;

	set(b, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
	set(b, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
	set(b, t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
	set(b, t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
	set(b, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align);
	finish(b, t);
	return t;
}

static desc convolution(struct build *b, const struct dnn_shape *s)
{
	desc c = part(b, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
	cudnnDataType_t sums = CUDNN_DATA_FLOAT;
	cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
	int64_t nspatial = 2, dense[2] = { 1, 1 }, strides[2] = { s->stride, s->stride }, pad[2] = { s->pad, s->pad };

	set(b, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &nspatial);
	set(b, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
	set(b, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
	set(b, c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
	set(b, c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pad);
	set(b, c, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dense);
	set(b, c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
	finish(b, c);
	return c;
}

/* The attributes' names of each way, alike in kind. */
static const struct {
	cudnnBackendDescriptorType_t type;
	cudnnBackendAttributeName_t x, w, y, conv, alpha, beta;
} operation[] = {
	[DNN_FORWARD] = { CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA },
	[DNN_DGRAD] = { CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA },
	[DNN_WGRAD] = { CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
	    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA },
};

/* The graph of one operation. filters: the type of w or dw. */
static desc conv_graph(struct build *b, cudnnHandle_t handle, const struct dnn_shape *s, enum dnn_way way,
    cudnnDataType_t maps, cudnnDataType_t filters)
{
	int64_t xdims[4] = { s->n, s->c, s->h, s->w }, ydims[4] = { s->n, s->k, s->oh, s->ow };
	int64_t wdims[4] = { s->k, s->c / s->groups, s->r, s->r };
	desc x = tensor(b, X, maps, xdims, s->cs), w = tensor(b, W, filters, wdims, wdims[1]);
	desc y = tensor(b, Y, maps, ydims, s->ks), conv = convolution(b, s);
	desc run = part(b, operation[way].type), graph;
	float one = 1, zero = 0;

	set(b, run, operation[way].x, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x);
	set(b, run, operation[way].w, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &w);
	set(b, run, operation[way].y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &y);
	set(b, run, operation[way].conv, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &conv);
	set(b, run, operation[way].alpha, CUDNN_TYPE_FLOAT, 1, &one);
	set(b, run, operation[way].beta, CUDNN_TYPE_FLOAT, 1, &zero);
	finish(b, run);
	graph = part(b, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
	set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
	set(b, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &run);
	finish(b, graph);
	return graph;
}

/* Whether the configuration's engine computes as it must; its number. */
static bool allowed(desc config, bool tensor_cores, int64_t *number)
{
	cudnnBackendNumericalNote_t note[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
	struct build b = { NULL, CUDNN_STATUS_SUCCESS };
	desc engine = NULL;
	int64_t count;
	bool good;

	if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS)
		return false;
	get(&b, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
	get(&b, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, number);
	/* A library newer than the header may know more notes than there is room for. */
	count = MIN(get(&b, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, LEN(note), note),
	    (int64_t)LEN(note));
	good = b.st == CUDNN_STATUS_SUCCESS;
	for (int64_t i = 0; good && i < count; i++)
		good = note[i] != CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC &&
		    note[i] != CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS &&
		    note[i] != CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION &&
		    (tensor_cores || note[i] != CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
	cudnnBackendDestroyDescriptor(engine);
	return good;
}

/* As cuDNN's own logs write a configuration. */
static void name_engine(char out[OP_ENGINE], desc config, int64_t number)
{
	struct build b = { NULL, CUDNN_STATUS_SUCCESS };
	desc knob[CUDNN_KNOB_TYPE_COUNTS] = { 0 };
	int64_t count;
	int at = snprintf(out, OP_ENGINE, "cudnn:eng%lld", (long long)number);

	for (size_t i = 0; i < LEN(knob) && b.st == CUDNN_STATUS_SUCCESS; i++)
		b.st = cudnnBackendCreateDescriptor(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &knob[i]);
	count = MIN(get(&b, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, LEN(knob), knob),
	    (int64_t)LEN(knob));
	for (int64_t i = 0; i < count && at < OP_ENGINE; i++) {
		cudnnBackendKnobType_t type = CUDNN_KNOB_TYPE_COUNTS;
		int64_t value = -1;

		get(&b, knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
		get(&b, knob[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
		at += snprintf(out + at, OP_ENGINE - at, "%sk%d=%lld%s", i ? "," : "{", (int)type, (long long)value,
		    i == count - 1 ? "}" : "");
	}
	for (size_t i = 0; i < LEN(knob); i++)
		if (knob[i])
			cudnnBackendDestroyDescriptor(knob[i]);
}

static bool unsupported(cudnnStatus_t st)
{
	return st / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000;
}

/* As where an engine is compiled at run time, and the compiler's files are missing, or the driver is too old for it. */
static bool unbuilt(cudnnStatus_t st)
{
	return st == CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED || st == CUDNN_STATUS_EXECUTION_FAILED ||
	    st == CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER;
}

/* Whether another engine may still do it. Whatever else goes wrong must not choose one: its bytes would be others. */
static bool go_on(cudnnStatus_t st)
{
	return st == CUDNN_STATUS_SUCCESS || unsupported(st) || unbuilt(st);
}

/* An engine that cannot be built here, but elsewhere, is worth a line: the next one's bytes are others. */
static void pass_over(const struct conv *c, int64_t number, cudnnStatus_t st)
{
	static bool said;
	char why[ERRLEN];

	if (said || !unbuilt(st))
		return;
	dnn_failed(why, c->op.what, st);
	warn("device cuda: cuDNN's engine %lld cannot be built here, the next one's bytes are others: %s", (long long)number, why);
	said = true;
}

/* The configuration's plan, unless it cannot be built, for the reason in *st, or needs too much. */
static desc plan_of(struct dnn *d, desc config, size_t *workspace, cudnnStatus_t *st)
{
	struct build b = { NULL, CUDNN_STATUS_SUCCESS };
	desc plan = NULL;
	int64_t bytes = 0;

	b.st = cudnnBackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan);
	set(&b, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &d->dnn);
	set(&b, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config);
	finish(&b, plan);
	get(&b, plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &bytes);
	*st = b.st;
	if (b.st == CUDNN_STATUS_SUCCESS && bytes >= 0 && (size_t)bytes <= MAX_WORKSPACE) {
		*workspace = bytes;
		return plan;
	}
	if (plan)
		cudnnBackendDestroyDescriptor(plan);
	return NULL;
}

/* The first of the configurations that is allowed and can be built; the one chosen is forgotten here and kept in c. */
static cudnnStatus_t choose_of(struct conv *c, struct dnn *d, desc *config, int64_t count, bool tensor_cores)
{
	cudnnStatus_t st = CUDNN_STATUS_SUCCESS;
	int64_t number = -1;

	for (int64_t i = 0; i < count && !c->plan && go_on(st); i++) {
		if (!allowed(config[i], tensor_cores, &number))
			continue;
		c->plan = plan_of(d, config[i], &c->op.workspace, &st);
		if (!c->plan) {
			pass_over(c, number, st);
			continue;
		}
		name_engine(c->op.engine, config[i], number);
		c->part[c->npart++] = config[i];
		config[i] = NULL;
	}
	return st;
}

/* From what cuDNN proposes, best first by its prediction. */
static void choose(struct build *b, struct dnn *d, desc graph, cudnnBackendHeurMode_t mode, bool tensor_cores)
{
	desc heuristic = part(b, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), *config;
	int64_t room, count;

	set(b, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &graph);
	set(b, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
	finish(b, heuristic);
	room = get(b, heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, NULL);
	if (room < 1)
		return;
	config = ecalloc(room, sizeof *config);
	for (int64_t i = 0; i < room && b->st == CUDNN_STATUS_SUCCESS; i++)
		b->st = cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config[i]);
	count = get(b, heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, room, config);
	if (b->st == CUDNN_STATUS_SUCCESS)
		b->st = choose_of(b->conv, d, config, MIN(count, room), tensor_cores);
	for (int64_t i = 0; i < room; i++)
		if (config[i])
			cudnnBackendDestroyDescriptor(config[i]);
	free(config);
}

/* The plan with filters of one type from one list; false: there is none, *st has what cuDNN said of it last, if anything. */
static bool make(struct conv *c, struct dnn *d, const struct dnn_shape *s, enum dnn_math math, cudnnDataType_t filters,
    cudnnBackendHeurMode_t mode, cudnnStatus_t *st)
{
	struct build b = { c, CUDNN_STATUS_SUCCESS };
	cudnnDataType_t maps = math == DNN_BF16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
	desc graph = conv_graph(&b, d->dnn, s, c->op.way, maps, filters);

	choose(&b, d, graph, mode, math != DNN_F32);
	if (b.st != CUDNN_STATUS_SUCCESS)
		*st = b.st;
	if (!c->plan)
		free_parts(c);
	return c->plan;
}

/* bfloat16 goes to the end of the workspace, and from there to dw. */
static bool make_narrow(struct conv *c, struct dnn *d, const struct dnn_shape *s, cudnnBackendHeurMode_t mode,
    cudnnStatus_t *st)
{
	size_t values = (size_t)s->k * s->r * s->r * (s->c / s->groups), at;

	if (!make(c, d, s, DNN_BF16, CUDNN_DATA_BFLOAT16, mode, st))
		return false;
	c->narrow = values;
	c->narrow_at = (c->op.workspace + 255) / 256 * 256;
	c->op.workspace = c->narrow_at + (values + 7) / 8 * 8 * 2;
	at = strlen(c->op.engine);
	snprintf(c->op.engine + at, OP_ENGINE - at, "+widen");
	return true;
}

/* The list of last resort comes last whatever its engines write: they are many times slower. */
static bool make_any(struct conv *c, struct dnn *d, const struct dnn_shape *s, enum dnn_math math, cudnnStatus_t *st)
{
	static const cudnnBackendHeurMode_t mode[] = { CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK };
	bool narrow = math == DNN_BF16, wgrad = c->op.way == DNN_WGRAD, made = false;

	for (size_t i = 0; i < LEN(mode) && !made && go_on(*st); i++) {
		made = make(c, d, s, math, narrow && !wgrad ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT, mode[i], st);
		if (!made && narrow && wgrad && go_on(*st))
			made = make_narrow(c, d, s, mode[i], st);
	}
	return made;
}

static void widen(struct dnn *d, float *out, const void *from, size_t values)
{
	gpu_to_nchw(d->stream, out, from, (struct maps){ 1, 1, 1, values, (values + 7) / 8 * 8, ELEM_BF16 });
}

static int run(struct dnn *d, const struct dnn_op *op, void *out, const void *a, const void *b, void *workspace,
    char err[ERRLEN])
{
	static const int64_t names[][3] = { /* of out, a, b */
		[DNN_FORWARD] = { Y, X, W }, [DNN_DGRAD] = { X, Y, W }, [DNN_WGRAD] = { W, Y, X } };
	const struct conv *c = (const struct conv *)op;
	const void *data[3] = { c->narrow ? (char *)workspace + c->narrow_at : out, a, b };
	struct build build = { NULL, CUDNN_STATUS_SUCCESS };
	desc pack = NULL;

	build.st = cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
	set(&build, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, names[op->way]);
	set(&build, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, data);
	set(&build, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
	finish(&build, pack);
	if (build.st == CUDNN_STATUS_SUCCESS)
		build.st = cudnnBackendExecute(d->dnn, c->plan, pack);
	if (build.st != CUDNN_STATUS_SUCCESS)
		dnn_failed(err, op->what, build.st);
	if (pack)
		cudnnBackendDestroyDescriptor(pack);
	if (build.st != CUDNN_STATUS_SUCCESS)
		return -1;
	if (c->narrow)
		widen(d, out, data[0], c->narrow);
	return 0;
}

struct dnn_op *dnn_conv_op(struct dnn *d, struct dnn_shape s, enum dnn_way way, enum dnn_math math, char err[ERRLEN])
{
	static const char *const counted[] = { "conv_forward", "conv_dgrad", "conv_wgrad" };
	struct conv *c = ecalloc(1, sizeof *c);
	cudnnStatus_t st = CUDNN_STATUS_SUCCESS;
	char what[OP_WHAT + 64];

	c->op = (struct dnn_op){ .way = way, .counted = counted[way], .run = run, .release = release };
	snprintf(c->op.what, OP_WHAT,
	    "convolution (%s, %s) %dx%d, stride %d, padding %d, groups %d, of %dx%dx%dx%d to %dx%dx%d", dnn_way_name[way],
	    dnn_math_name[math], s.r, s.r, s.stride, s.pad, s.groups, s.n, s.c, s.h, s.w, s.k, s.oh, s.ow);
	if (make_any(c, d, &s, math, &st))
		return &c->op;
	snprintf(what, sizeof what, "%s: %s %s", c->op.what, dnn_version(), st == CUDNN_STATUS_SUCCESS || unsupported(st) ?
	    "has no engine for it" : "cannot prepare it");
	if (st == CUDNN_STATUS_SUCCESS)
		fail(err, "%s", what);
	else
		dnn_failed(err, what, st);
	dnn_op_free(&c->op);
	return NULL;
}
