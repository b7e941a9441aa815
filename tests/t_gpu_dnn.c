/* lib/cuda_dnn.h: convolutions and matrix products in all three ways and kinds of arithmetic. Prints TAP. */
#include "../lib/cuda_dnn.h"
#include "dnn_shapes.h"
#include "gpu_maps.h"
#include "ref.h"
#include "tap.h"

enum { SEVEN = 7 }; /* stands where nothing may be written; NaN where nothing may be read */

static const char *const way_name[] = { "forward", "dgrad", "wgrad" };
static const char *const math_name[] = { "f32", "tf32", "bf16" };
static char err[ERRLEN];
static cudaStream_t stream;
static struct dnn *dnn;

/* Rows of values on the device, `apart` from one to the next. */
struct rows {
	size_t n;
	int values, apart;
	enum elem type;
};

static double *random_rows(struct rows r, int seed)
{
	struct rng g = rng_at(seed, RNG_NOISE, r.values, r.n, r.apart);
	double *x = ecalloc(r.n * r.values, sizeof *x);

	for (size_t i = 0; i < r.n * r.values; i++)
		x[i] = rounded(rng_normal(&g), r.type);
	return x;
}

/* x NULL: NaN. gap: what stands between the rows. */
static void *rows_on_device(const double *x, struct rows r, float gap)
{
	size_t size = r.n * r.apart * elem_size(r.type);
	void *host = emalloc(size), *p;

	for (size_t i = 0; i < r.n; i++)
		for (int j = 0; j < r.apart; j++)
			put_elem(host, i * r.apart + j, j >= r.values ? gap : x ? x[i * r.values + j] : NAN, r.type);
	p = on_device(host, size);
	cuda_ok(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); /* `stream` does not wait for it */
	free(host);
	return p;
}

/* The largest |got - want| / (1 + |want|) of every step-th value; infinity where a gap is no longer 7. Releases p. */
static double rows_differ(void *p, const double *want, struct rows r, int step)
{
	size_t size = r.n * r.apart * elem_size(r.type);
	void *host = emalloc(size);
	double worst = 0;

	cuda_ok(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
	from_device(host, p, size);
	cuda_ok(cudaFree(p), "cudaFree");
	for (size_t i = 0; i < r.n; i++)
		for (int j = 0; j < r.apart; j++) {
			double got = get_elem(host, i * r.apart + j, r.type), x = j < r.values ? want[i * r.values + j] : SEVEN;
			double d = fabs(got - x) / (1 + fabs(x));
			if (j < r.values ? (i * r.values + j) % step == 0 : got != SEVEN)
				worst = isnan(d) || j >= r.values ? INFINITY : fmax(worst, d);
		}
	free(host);
	return worst;
}

/* Sums are float, in any order; TF32 keeps ten bits of each operand. */
static double may_differ(enum dnn_math math, enum elem out, const struct dnn_op *op)
{
	if (out == ELEM_BF16 || strstr(dnn_op_engine(op), "widen"))
		return 1.0 / 200;
	return math == DNN_TF32 ? 1.0 / 50 : 1e-4;
}

/* An op that ran into `out`, released; its tolerance. Negative: it did not run. That there is no such engine only a GPU may
 * say, and of `odd` shapes alone: networks do without them. */
static double run_op(struct dnn_op *op, const char *counted, enum dnn_math math, void *out, enum elem type,
    const void *a, const void *b, bool odd, const char *name)
{
	long before = gpu_launches(counted), all = gpu_launches(NULL);
	double may;

#ifdef GPU_EMULATED
	(void)odd;
#else
	if (!op && odd && strstr(err, "no engine")) {
		ok(true, "%s # SKIP %s", name, err);
		return -1;
	}
#endif
	if (!op || dnn_reserve(dnn, dnn_op_workspace(op), err) != 0 || dnn_run(dnn, op, out, a, b, err) != 0) {
		ok(false, "%s: %s", name, err); /* the others may go */
		dnn_op_free(op);
		return -1;
	}
	may = may_differ(math, type, op);
	ok(gpu_launches(counted) == before + 1 && gpu_launches(NULL) == all + 1 + !!strstr(dnn_op_engine(op), "widen"),
	    "%s by %s", name, dnn_op_engine(op));
	cuda_ok(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
	dnn_op_free(op);
	return may;
}

/* (n,c,h,w) of rows (n*h*w,c), one image and one group of channels. */
static void plane(double *to, const double *rows, int pixels, int c, int from, int count)
{
	for (int i = 0; i < count; i++)
		for (int j = 0; j < pixels; j++)
			to[i * pixels + j] = rows[(size_t)j * c + from + i];
}

static void unplane(double *rows, const double *from, int pixels, int c, int at, int count)
{
	for (int i = 0; i < count; i++)
		for (int j = 0; j < pixels; j++)
			rows[(size_t)j * c + at + i] = from[i * pixels + j];
}

/* Filters (kg,r,r,cg) as ref_conv has them: (kg,cg,r,r). */
static void ref_filters(double *to, const double *w, int kg, int cg, int rr)
{
	for (int o = 0; o < kg; o++)
		for (int i = 0; i < cg; i++)
			for (int a = 0; a < rr; a++)
				to[(o * cg + i) * rr + a] = w[(o * rr + a) * cg + i];
}

struct room { /* of one image, one group */
	double *x, *y, *w;
};

static void ref_forward(double *y, const double *x, const double *w, const struct dnn_shape *s, struct room p)
{
	int cg = s->c / s->groups, kg = s->k / s->groups, rr = s->r * s->r;

	for (int i = 0; i < s->n; i++)
		for (int g = 0; g < s->groups; g++) {
			plane(p.x, x + (size_t)i * s->h * s->w * s->c, s->h * s->w, s->c, g * cg, cg);
			ref_filters(p.w, w + (size_t)g * kg * rr * cg, kg, cg, rr);
			ref_conv(p.y, p.x, p.w, NULL, cg, s->h, s->w, kg, s->oh, s->ow, s->r, s->stride, s->pad);
			unplane(y + (size_t)i * s->oh * s->ow * s->k, p.y, s->oh * s->ow, s->k, g * kg, kg);
		}
}

static void ref_dgrad(double *dx, const double *dy, const double *w, const struct dnn_shape *s, struct room p)
{
	int cg = s->c / s->groups, kg = s->k / s->groups, rr = s->r * s->r;

	for (int i = 0; i < s->n; i++)
		for (int g = 0; g < s->groups; g++) {
			plane(p.y, dy + (size_t)i * s->oh * s->ow * s->k, s->oh * s->ow, s->k, g * kg, kg);
			ref_filters(p.w, w + (size_t)g * kg * rr * cg, kg, cg, rr);
			ref_conv_dgrad(p.x, p.y, p.w, cg, s->h, s->w, kg, s->oh, s->ow, s->r, s->stride, s->pad);
			unplane(dx + (size_t)i * s->h * s->w * s->c, p.x, s->h * s->w, s->c, g * cg, cg);
		}
}

/* By what the adjoint is: the gradient of <dy, y> along one filter value is <dy, what that value alone makes of x>. */
static void ref_wgrad(double *dw, const double *dy, const double *x, const struct dnn_shape *s, struct room p, int step)
{
	size_t count = (size_t)s->k * s->r * s->r * (s->c / s->groups), out = (size_t)s->n * s->oh * s->ow * s->k;
	double *one = ecalloc(count, sizeof *one), *y = ecalloc(out, sizeof *y);

	for (size_t e = 0; e < count; e += step) {
		one[e] = 1;
		ref_forward(y, x, one, s, p);
		one[e] = 0;
		dw[e] = 0;
		for (size_t i = 0; i < out; i++)
			dw[e] += dy[i] * y[i];
	}
	free(one);
	free(y);
}

static void test_conv(struct dnn_shape s, enum dnn_way way, enum dnn_math math)
{
	enum { STEP = 7 };
	static const char *const counted[] = { "conv_forward", "conv_dgrad", "conv_wgrad" };
	enum elem type = math == DNN_BF16 ? ELEM_BF16 : ELEM_F32;
	int cg = s.c / s.groups, filter = s.r * s.r * cg;
	struct rows xr = { (size_t)s.n * s.h * s.w, s.c, s.cs, type }, yr = { (size_t)s.n * s.oh * s.ow, s.k, s.ks, type };
	struct rows wr = { s.k, filter, filter, type };
	double *x = random_rows(xr, 1), *y = random_rows(yr, 2), *w = random_rows(wr, 3), may;
	struct room room = { ecalloc(s.c * s.h * s.w, sizeof(double)), ecalloc(s.k * s.oh * s.ow, sizeof(double)),
		ecalloc(s.k * filter, sizeof(double)) };
	void *dx, *dy, *dw;
	char name[160];
	struct dnn_op *op = dnn_conv_op(dnn, s, way, math, err);
	bool odd = dnn_shape_is_odd(s);

	snprintf(name, sizeof name, "%s, %s: %d,%d(%d),%d,%d to %d(%d),%d,%d, %dx%d stride %d groups %d", math_name[math],
	    way_name[way], s.n, s.c, s.cs, s.h, s.w, s.k, s.ks, s.oh, s.ow, s.r, s.r, s.stride, s.groups);
	if (way == DNN_WGRAD)
		wr.type = ELEM_F32;
	dx = rows_on_device(way == DNN_DGRAD ? NULL : x, xr, way == DNN_DGRAD ? SEVEN : NAN);
	dy = rows_on_device(way == DNN_FORWARD ? NULL : y, yr, way == DNN_FORWARD ? SEVEN : NAN);
	dw = rows_on_device(way == DNN_WGRAD ? NULL : w, wr, 0);
	if (way == DNN_FORWARD) {
		may = run_op(op, counted[way], math, dy, type, dx, dw, odd, name);
		ref_forward(y, x, w, &s, room);
		ok(may < 0 || rows_differ(dy, y, yr, 1) < may, "the product");
		cudaFree(dx), cudaFree(dw);
	} else if (way == DNN_DGRAD) {
		may = run_op(op, counted[way], math, dx, type, dy, dw, odd, name);
		ref_dgrad(x, y, w, &s, room);
		ok(may < 0 || rows_differ(dx, x, xr, 1) < may, "the product");
		cudaFree(dy), cudaFree(dw);
	} else {
		may = run_op(op, counted[way], math, dw, ELEM_F32, dy, dx, odd, name);
		ref_wgrad(w, y, x, &s, room, STEP);
		ok(may < 0 || rows_differ(dw, w, wr, STEP) < may, "the product");
		cudaFree(dx), cudaFree(dy);
	}
	free(x), free(y), free(w);
	free(room.x), free(room.y), free(room.w);
}

static void test_convs(void)
{
	for (size_t i = 0; i < LEN(dnn_shapes); i++)
		for (int way = DNN_FORWARD; way <= DNN_WGRAD; way++)
			for (int math = DNN_F32; math <= DNN_BF16; math++)
				test_conv(dnn_shapes[i], way, math);
}

/* c (rows,cols) = sum over depth of a[i*ai + d*ad] * b[j*bj + d*bd] */
static double *ref_product(int rows, int cols, int depth, const double *a, int ai, int ad, const double *b, int bj,
    int bd)
{
	double *c = ecalloc((size_t)rows * cols, sizeof *c);

	for (int i = 0; i < rows; i++)
		for (int j = 0; j < cols; j++)
			for (int d = 0; d < depth; d++)
				c[i * cols + j] += a[i * ai + d * ad] * b[j * bj + d * bd];
	return c;
}

static void test_gemm(struct dnn_gemm s, enum dnn_way way, enum dnn_math math)
{
	static const char *const counted[] = { "gemm_forward", "gemm_dgrad", "gemm_wgrad" };
	enum elem type = math == DNN_BF16 ? ELEM_BF16 : ELEM_F32;
	struct rows xr = { s.m, s.k, s.xs, type }, wr = { s.n, s.k, s.ws, type }, yr = { s.m, s.n, s.ys, type };
	struct rows *out = way == DNN_FORWARD ? &yr : way == DNN_DGRAD ? &xr : &wr;
	double *x = random_rows(xr, 4), *w = random_rows(wr, 5), *y = random_rows(yr, 6), *want, may;
	void *dx, *dw, *dy;
	char name[160];
	struct dnn_op *op = dnn_gemm_op(dnn, s, way, math, err);

	snprintf(name, sizeof name, "%s, %s: %d rows, %d(%d) to %d(%d)%s", math_name[math], way_name[way], s.m, s.k, s.xs,
	    s.n, s.ys, s.wide ? " wide" : "");
	if (s.wide || way == DNN_WGRAD)
		out->type = ELEM_F32;
	dx = rows_on_device(way == DNN_DGRAD ? NULL : x, xr, way == DNN_DGRAD ? SEVEN : NAN);
	dw = rows_on_device(way == DNN_WGRAD ? NULL : w, wr, way == DNN_WGRAD ? SEVEN : NAN);
	dy = rows_on_device(way == DNN_FORWARD ? NULL : y, yr, way == DNN_FORWARD ? SEVEN : NAN);
	if (way == DNN_FORWARD) {
		may = run_op(op, counted[way], math, dy, out->type, dx, dw, false, name);
		want = ref_product(s.m, s.n, s.k, x, s.k, 1, w, s.k, 1);
		ok(may < 0 || rows_differ(dy, want, *out, 1) < may, "the product");
		cudaFree(dx), cudaFree(dw);
	} else if (way == DNN_DGRAD) {
		may = run_op(op, counted[way], math, dx, out->type, dy, dw, false, name);
		want = ref_product(s.m, s.k, s.n, y, s.n, 1, w, 1, s.k);
		ok(may < 0 || rows_differ(dx, want, *out, 1) < may, "the product");
		cudaFree(dy), cudaFree(dw);
	} else {
		may = run_op(op, counted[way], math, dw, out->type, dy, dx, false, name);
		want = ref_product(s.n, s.k, s.m, y, 1, s.n, x, 1, s.k);
		ok(may < 0 || rows_differ(dw, want, *out, 1) < may, "the product");
		cudaFree(dx), cudaFree(dy);
	}
	free(x), free(w), free(y), free(want);
}

static void test_gemms(void)
{
	const struct dnn_gemm shapes[] = {
		{ 5, 16, 24, 24, 24, 16, false },
		{ 1, 8, 8, 8, 8, 8, true },
		{ 7, 10, 40, 48, 56, 16, true }, /* gaps; ten classes */
		{ 9, 10, 40, 40, 40, 16, false },
	};

	for (size_t i = 0; i < LEN(shapes); i++)
		for (int way = DNN_FORWARD; way <= DNN_WGRAD; way++)
			for (int math = DNN_F32; math <= DNN_BF16; math++)
				test_gemm(shapes[i], way, math);
}

/* A captured product reads its operands anew at each replay, and keeps its workspace when a larger one is made. */
static void test_graph(void)
{
	struct rows r = { 3, 8, 8, ELEM_F32 };
	double *x = random_rows(r, 7), *x2 = random_rows(r, 8), *eye = ecalloc(64, sizeof *eye);
	void *dx = rows_on_device(x, r, 0), *dx2 = rows_on_device(x2, r, 0), *dw, *dy = rows_on_device(NULL, r, 0);
	struct dnn_op *op = dnn_gemm_op(dnn, (struct dnn_gemm){ 3, 8, 8, 8, 8, 8, false }, DNN_FORWARD, DNN_F32, err);
	cudaGraph_t graph;
	cudaGraphExec_t exec;

	for (int i = 0; i < 8; i++)
		eye[i * 9] = 1;
	dw = rows_on_device(eye, (struct rows){ 8, 8, 8, ELEM_F32 }, 0);
	if (!op || dnn_reserve(dnn, dnn_op_workspace(op), err) != 0)
		die("graph: %s", err);
	/* Libraries load what they need then, which a capture would not bear. */
	ok(dnn_run(dnn, op, dy, dx, dw, err) == 0 && cudaStreamSynchronize(stream) == cudaSuccess, "a product runs");
	cuda_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
	ok(dnn_run(dnn, op, dy, dx, dw, err) == 0, "it is captured");
	cuda_ok(cudaStreamEndCapture(stream, &graph), "capture");
	cuda_ok(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
	ok(dnn_reserve(dnn, dnn_op_workspace(op) + (4 << 20), err) == 0, "a larger workspace");
	cuda_ok(cudaMemcpyAsync(dx, dx2, 24 * sizeof(float), cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
	cuda_ok(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
	ok(rows_differ(dy, x2, r, 1) < 1e-6, "the replay reads what is there then");
	cuda_ok(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
	cuda_ok(cudaGraphDestroy(graph), "cudaGraphDestroy");
	dnn_op_free(op);
	cudaFree(dx), cudaFree(dx2), cudaFree(dw);
	free(x), free(x2), free(eye);
}

/* An infinity and a NaN stay in the sums that they are in. */
static void test_not_finite(void)
{
	struct dnn_shape s = SHAPE(1, 8, 4, 4, 8, 1, 1, 0, 1);
	struct rows r = { 16, 8, 8, ELEM_BF16 }, wr = { 8, 8, 8, ELEM_BF16 };
	double *x = random_rows(r, 9), *w = random_rows(wr, 10);
	uint16_t y[16 * 8];
	void *dx, *dw = rows_on_device(w, wr, 0), *dy = rows_on_device(NULL, r, 0);
	struct dnn_op *op = dnn_conv_op(dnn, s, DNN_FORWARD, DNN_BF16, err);
	int bad[16] = { 0 };

	x[3 * 8 + 2] = NAN;
	x[5 * 8 + 7] = INFINITY;
	dx = rows_on_device(x, r, 0);
	if (!op || dnn_reserve(dnn, dnn_op_workspace(op), err) != 0 || dnn_run(dnn, op, dy, dx, dw, err) != 0)
		die("not finite: %s", err);
	cuda_ok(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
	from_device(y, dy, sizeof y);
	for (int i = 0; i < 16 * 8; i++)
		bad[i / 8] += !isfinite(get_elem(y, i, ELEM_BF16));
	ok(bad[3] == 8 && bad[5] == 8, "what is not finite spreads over its pixel");
	bad[3] = bad[5] = 0;
	for (int i = 1; i < 16; i++)
		bad[0] += bad[i];
	ok(bad[0] == 0, "and no further");
	dnn_op_free(op);
	cudaFree(dx), cudaFree(dy), cudaFree(dw);
	free(x), free(w);
}

static void test_errors(void)
{
	struct dnn_shape s = SHAPE(1, 8, 8, 8, 8, 3, 2, 1, 1);
	struct dnn *bare = dnn_new(stream, err);
	struct dnn_op *op = dnn_conv_op(bare, s, DNN_FORWARD, DNN_BF16, err);

	if (op && dnn_op_workspace(op) > 0) {
		ok(dnn_run(bare, op, NULL, NULL, NULL, err) != 0 && strstr(err, "workspace"), "without a workspace: %s", err);
		ok(!!strstr(err, "3x3, stride 2, padding 1, groups 1, of 1x8x8x8 to 8x4x4"), "it says of what");
	}
	dnn_op_free(op);
	s.oh++;
	ok(!dnn_conv_op(bare, s, DNN_FORWARD, DNN_F32, err) && strstr(err, "to 8x5x4"), "a row too many: %s", err);
#ifdef GPU_EMULATED
	s.oh--;
	setenv("EMU_LACKS", "conv_dgrad", 1);
	ok(!dnn_conv_op(bare, s, DNN_DGRAD, DNN_F32, err) && strstr(err, "no engine"), "no engine: %s", err);
	op = dnn_conv_op(bare, s, DNN_FORWARD, DNN_F32, err);
	ok(!!op, "the others are there");
	dnn_op_free(op);
	unsetenv("EMU_LACKS");
#endif
	ok(strstr(dnn_version(), "cuDNN 9.") && strstr(dnn_version(), ", cuBLASLt 1"), "%s", dnn_version());
	dnn_free(bare);
}

int main(void)
{
	progname = "t_gpu_dnn";
	cuda_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
	dnn = dnn_new(stream, err);
	if (!dnn)
		die("%s", err);
	test_convs();
	test_gemms();
	test_graph();
	test_not_finite();
	test_errors();
	dnn_free(dnn);
	cuda_ok(cudaStreamDestroy(stream), "cudaStreamDestroy");
	return tap_end();
}
