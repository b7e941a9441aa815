/* lib/cuda_conv.c's descriptors and choice, by cuDNN itself but without a device: it builds plans for one whose properties
 * it is told (those of ../fixtures/h200.json), from 9.11 on. What runs afterwards is not asked. Prints TAP. */
#include <cudnn_graph.h>
#include <stdlib.h>
#include <string.h>

#include "../../lib/cuda.h"
#include "../../lib/cuda_op.h"
#include "../dnn_shapes.h"
#include "../tap.h"

static cudnnBackendDescriptor_t device, plan;
static int breaks; /* so many plans cannot be built from now on */

/* What cuda_conv.c is compiled to call: where it gives a handle, which needs a device, its properties. */
cudnnStatus_t test_set_attribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
    cudnnBackendAttributeType_t type, int64_t count, const void *values);
cudnnStatus_t test_set_attribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
    cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
	cudnnStatus_t st = CUDNN_STATUS_SUCCESS;

	if (name == CUDNN_ATTR_OPERATIONGRAPH_HANDLE)
		return st;
	if (name == CUDNN_ATTR_EXECUTION_PLAN_HANDLE)
		plan = d;
	if (name == CUDNN_ATTR_EXECUTION_PLAN_HANDLE)
		return cudnnBackendSetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &device);
	if (name == CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)
		st = cudnnBackendSetAttribute(d, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &device);
	return st != CUDNN_STATUS_SUCCESS ? st : cudnnBackendSetAttribute(d, name, type, count, values);
}

cudnnStatus_t test_finalize(cudnnBackendDescriptor_t d);
cudnnStatus_t test_finalize(cudnnBackendDescriptor_t d)
{
	bool broken = d == plan && breaks > 0 && breaks--;

	plan = NULL; /* its address may be another's next */
	return broken ? CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED : cudnnBackendFinalize(d);
}

/* The rest of the seam, as far as the above calls it. */
const char *const dnn_way_name[] = { "forward", "dgrad", "wgrad" }, *const dnn_math_name[] = { "f32", "tf32", "bf16" };

const char *dnn_version(void)
{
	return "cuDNN";
}

int dnn_failed(char err[ERRLEN], const char *what, cudnnStatus_t st)
{
	char said[ERRLEN / 2] = "";

	cudnnGetLastErrorString(said, sizeof said);
	return fail(err, "%s: %s: %s", what, cudnnGetErrorString(st), said);
}

void dnn_op_free(struct dnn_op *op)
{
	if (op)
		op->release(op);
	free(op);
}

void gpu_to_nchw(cudaStream_t s, float *y, const void *x, struct maps m)
{
	(void)s, (void)y, (void)x, (void)m;
	die("nothing runs here");
}

static void take_device(const char *path)
{
	char json[8192];
	FILE *fp = fopen(path, "r");
	size_t n = fp ? fread(json, 1, sizeof json, fp) : 0;

	if (n == 0)
		die("%s: cannot be read", path);
	fclose(fp);
	if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &device) != CUDNN_STATUS_SUCCESS ||
	    cudnnBackendSetAttribute(device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, n, json) !=
	    CUDNN_STATUS_SUCCESS || cudnnBackendFinalize(device) != CUDNN_STATUS_SUCCESS)
		die("%s: cuDNN does not take it for a device", path);
}

struct sum {
	int shapes, without, widened;
	double workspace, longest; /* bytes, seconds */
};

static bool known(struct dnn_shape s)
{
	static struct dnn_shape *seen;
	static int n;

	for (int i = 0; i < n; i++)
		if (!memcmp(&seen[i], &s, sizeof s))
			return true;
	seen = erealloc(seen, n + 1, sizeof *seen);
	seen[n++] = s;
	return false;
}

static void ask(struct sum *sum, struct dnn_shape s, enum dnn_way way, enum dnn_math math)
{
	struct dnn nobody = { 0 };
	char err[ERRLEN];
	double start = now();
	struct dnn_op *op = dnn_conv_op(&nobody, s, way, math, err);

	sum->longest = MAX(sum->longest, now() - start);
	if (!op) {
		sum->without++;
		printf("# %s\n", err);
		return;
	}
	if (getenv("VERBOSE"))
		printf("# %s: %s, %zu bytes, %.3f s\n", op->what, op->engine, op->workspace, now() - start);
	sum->widened += !!strstr(op->engine, "+widen");
	sum->workspace = MAX(sum->workspace, op->workspace);
	dnn_op_free(op);
}

/* Every convolution of a network that no other had, in all ways and arithmetics. */
static void test_network(const char *arch, int size, int images)
{
	char err[ERRLEN];
	struct net *net = net_arch(arch, (int[]){ 3, size, size }, 10, err);
	struct sum sum = { 0 };

	if (!net)
		die("%s: %s", arch, err);
	for (int i = 0; i < net->nnode; i++) {
		const struct node *n = &net->node[i];
		struct dnn_shape s;

		if (n->op != OP_CONV)
			continue;
		s = cuda_conv_shape(n, &net->node[n->in[0]]);
		s.n = images;
		if (known(s))
			continue;
		sum.shapes++;
		for (enum dnn_way way = DNN_FORWARD; way <= DNN_WGRAD; way++)
			for (enum dnn_math math = DNN_F32; math <= DNN_BF16; math++)
				ask(&sum, s, way, math);
	}
	ok(sum.without == 0, "%s, %d of %dx%d: %d new shapes, %d times no engine, %d times widened, up to %.0f MiB, %.2f s",
	    arch, images, size, size, sum.shapes, sum.without, sum.widened, sum.workspace / (1 << 20), sum.longest);
	net_free(net);
}

/* Groups of whole eights stay apart; others would need padding of their own, and run as one. */
static void test_groups(void)
{
	static const struct { int c, k, groups, of; } want[] = { { 64, 32, 2, 2 }, { 24, 24, 24, 24 }, { 20, 20, 20, 24 },
		{ 128, 128, 32, 1 }, { 128, 64, 16, 1 }, { 20, 40, 2, 1 }, { 64, 64, 1, 1 } };

	for (size_t i = 0; i < LEN(want); i++) {
		struct node src = { .c = want[i].c, .h = 8, .w = 8 };
		struct node n = { .c = want[i].k, .h = 8, .w = 8, .k = 3, .stride = 1, .pad = 1, .groups = want[i].groups };

		ok(cuda_conv_shape(&n, &src).groups == want[i].of, "%d to %d channels, %d groups: as %d", want[i].c, want[i].k,
		    want[i].groups, want[i].of);
	}
}

/* t_gpu_dnn's, so that what it will run is known to have an engine; and what may have none, to be said so. */
static void test_small(void)
{
	for (size_t i = 0; i < LEN(dnn_shapes); i++) {
		int without = 0, wrong = 0;
		char err[ERRLEN] = "";

		for (enum dnn_way way = DNN_FORWARD; way <= DNN_WGRAD; way++)
			for (enum dnn_math math = DNN_F32; math <= DNN_BF16; math++) {
				struct dnn nobody = { 0 };
				struct dnn_op *op = dnn_conv_op(&nobody, dnn_shapes[i], way, math, err);

				without += !op;
				wrong += !op && !strstr(err, "no engine");
				dnn_op_free(op);
			}
		ok(wrong == 0 && (without == 0 || dnn_shape_is_odd(dnn_shapes[i])), "small shape %zu: %d of 9 have no engine%s%s", i,
		    without, without ? ": " : "", err);
	}
}

/* What has none: an output that does not fit is a mistake, and not said to be the library's lack. */
static void test_mistake(void)
{
	struct dnn_shape s = { 1, 8, 8, 8, 8, 5, 4, 3, 2, 1, 1, 8, 8 };
	struct dnn nobody = { 0 };
	char err[ERRLEN] = "";

	ok(!dnn_conv_op(&nobody, s, DNN_FORWARD, DNN_F32, err) && strstr(err, "cannot prepare it"), "a row too many: %s", err);
}

/* An engine that cannot be compiled here is passed over; where none can be, that is said. */
static void test_unbuilt(void)
{
	struct dnn_shape s = { 8, 64, 16, 16, 64, 16, 16, 3, 1, 1, 1, 64, 64 };
	struct dnn nobody = { 0 };
	char err[ERRLEN] = "", first[OP_ENGINE];
	struct dnn_op *op = dnn_conv_op(&nobody, s, DNN_FORWARD, DNN_F32, err);

	if (!op)
		die("%s", err);
	snprintf(first, sizeof first, "%s", op->engine);
	dnn_op_free(op);
	breaks = 1;
	op = dnn_conv_op(&nobody, s, DNN_FORWARD, DNN_F32, err);
	ok(op && strcmp(op->engine, first) && !breaks, "%s cannot be compiled: %s", first, op ? op->engine : err);
	dnn_op_free(op);
	breaks = 1000;
	ok(!dnn_conv_op(&nobody, s, DNN_FORWARD, DNN_F32, err) && strstr(err, "cannot prepare it"), "none can: %s", err);
	breaks = 0;
}

int main(int argc, char *argv[])
{
	static const char *const large[] = { "resnet18", "resnet50", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0",
		"efficientnet_b0", "vgg11_bn", "alexnet" };
	static const char *const small[] = { "convnet3", "resnet18-small", "resnet50-small", "densenet121-small",
		"mobilenet_v2-small", "shufflenet_v2_x1_0-small", "efficientnet_b0-small", "vgg11_bn-small", "alexnet-small" };

	progname = "cudnn";
	if (argc != 2)
		die("one argument expected: the device's properties");
	if (cudnnGetVersion() < 91100) {
		printf("1..0 # SKIP cuDNN %zu needs a device for this\n", cudnnGetVersion());
		return 0;
	}
	take_device(argv[1]);
	for (size_t i = 0; i < LEN(large); i++)
		test_network(large[i], 224, 100);
	for (size_t i = 0; i < LEN(small); i++) {
		test_network(small[i], 64, 100);
		test_network(small[i], 32, 1);
	}
	test_network("convnet3", 28, 256);
	test_groups();
	test_small();
	test_mistake();
	test_unbuilt();
	return tap_end();
}
