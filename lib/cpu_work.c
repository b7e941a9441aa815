/* What runs each part of a stage on the CPU, and how many multiply-adds that is. The order of questions is
 * cpu_head.c's: an implementation that is added there is named and counted here. */
#include <stdio.h>

#include "cpu.h"

enum algo {
	NOTHING, WINOGRAD, POLYPHASE, DEPTHWISE, DIRECT, IMAGE, IMAGE_BACK, IMAGE_WGRAD, LIBRARY, LINEAR, EPILOGUE, ACT,
	MAX_POOL, AVG_POOL, MEAN, SOLO
};
/* Ours, each followed by the instruction set. */
static const char *const algo_name[] = { [WINOGRAD] = "winograd", [POLYPHASE] = "polyphase", [DEPTHWISE] = "depthwise",
	[DIRECT] = "direct", [IMAGE] = "image", [IMAGE_BACK] = "image_back", [IMAGE_WGRAD] = "image_wgrad",
	[LINEAR] = "linear", [EPILOGUE] = "epilogue", [ACT] = "act",
	[MAX_POOL] = "max_pool", [AVG_POOL] = "avg_pool", [MEAN] = "mean" };

static enum algo solo_algo(const struct plan *p, const struct stage *s, enum part part)
{
	enum op op = p->net->node[s->solo].op;
	bool image = s->in_stage == 0 && p->opts.purpose == PLAN_SYNTH;
	enum algo a = op == OP_RELU6 || op == OP_SILU || op == OP_SIGMOID ? ACT : op == OP_MAXPOOL ? MAX_POOL
	    : op == OP_AVGPOOL ? AVG_POOL : op == OP_GAP ? MEAN : SOLO;

	if (part == PART_FORWARD)
		return op == OP_INPUT ? NOTHING : a;
	return part == PART_DGRAD && (s->gin >= 0 || s->gres >= 0 || image) ? a : NOTHING;
}

static enum algo conv_algo(const struct plan *p, const struct head *h, enum part part)
{
	switch (part) {
	case PART_FORWARD:
		return h->wino_fwd ? WINOGRAD : h->polyphase ? POLYPHASE : h->depthwise ? DEPTHWISE : h->direct_fwd ? DIRECT
		    : h->image_fwd ? IMAGE : LIBRARY;
	case PART_DGRAD:
		return !h->dgrad ? NOTHING : h->wino_dgrad ? WINOGRAD : h->polyphase ? POLYPHASE : h->direct_dgrad ? DIRECT
		    : h->depthwise ? DEPTHWISE : h->image_back ? IMAGE_BACK : h->image_dgrad ? IMAGE : LIBRARY;
	case PART_WGRAD:
		return p->opts.purpose != PLAN_TRAIN ? NOTHING : h->wino_wgrad ? WINOGRAD : h->polyphase ? POLYPHASE
		    : h->image_wgrad ? IMAGE_WGRAD : h->depthwise ? DEPTHWISE : h->own_wgrad ? DIRECT : LIBRARY;
	default:
		return NOTHING;
	}
}

static enum algo algo_of(const struct plan *p, const struct stage *s, enum part part)
{
	const struct exec *e = s->exec;

	if (part == PART_UNDO && e->head.image_raw)
		return NOTHING; /* undone where it is read */
	if (part == PART_UNDO)
		return s->dz >= 0 || stage_keeps_x(p, s) ? EPILOGUE : NOTHING;
	if (s->solo >= 0)
		return solo_algo(p, s, part);
	if (part == PART_EPILOGUE)
		return s->y != s->x ? EPILOGUE : NOTHING;
	if (s->head < 0)
		return NOTHING;
	if (p->net->node[s->head].op == OP_CONV)
		return conv_algo(p, &e->head, part);
	if (part == PART_DGRAD)
		return s->gin >= 0 ? LINEAR : NOTHING;
	return part == PART_FORWARD || p->opts.purpose == PLAN_TRAIN ? LINEAR : NOTHING;
}

const char *cpu_isa(const struct plan *p)
{
	return ((struct cpu *)p->be_data)->k->isa;
}

bool cpu_impl(const struct plan *p, int i, enum part part, char out[IMPLLEN])
{
	const struct stage *s = &p->stage[i];
	enum algo a = algo_of(p, s, part);

	if (a == LIBRARY)
		snprintf(out, IMPLLEN, "%s", dnn_conv_impl(((struct exec *)s->exec)->head.dnn,
		    part == PART_FORWARD ? CONV_FWD : part == PART_DGRAD ? CONV_DGRAD : CONV_WGRAD));
	else if (a == SOLO)
		snprintf(out, IMPLLEN, "cpu:%s", op_name[p->net->node[s->solo].op]);
	else if (a == WINOGRAD && ((struct exec *)s->exec)->head.bf16)
		snprintf(out, IMPLLEN, "bf16:%s", ((struct cpu *)p->be_data)->bf16->isa);
	else if (a != NOTHING)
		snprintf(out, IMPLLEN, "%s:%s", algo_name[a], cpu_isa(p));
	return a != NOTHING;
}

/* Pairs of an output row and a tap whose input row exists; of columns alike. */
static int64_t pairs(int in, int out, const struct conv_shape *s)
{
	int64_t n = 0;

	for (int o = 0; o < out; o++)
		for (int t = 0; t < s->k; t++) {
			int at = o * s->stride + t - s->pad;
			n += at >= 0 && at < in;
		}
	return n;
}

/* The same of an input row and the taps that a gradient by the direct kernel takes there, the border's too. */
static int64_t back_pairs(int in, const struct conv_shape *s)
{
	int64_t n = 0;

	for (int i = 0; i < in; i++)
		for (int t = 0; t < s->k; t++)
			n += (i % s->stride + s->pad - t) % s->stride == 0;
	return n;
}

/* Pixels of an image row of which the first layer's fused kernel makes the gradients, its last strip whole. */
static int64_t strips(const struct conv_shape *s, const struct kernels *k)
{
	int iw = s->iw, strip = image_strip(s->ic, k->wide && pad8(s->oc) % 16 == 0);

	return (iw + strip - 1) / strip * strip;
}

/* Outputs come in whole vectors; inputs are padded in the library's code alone, whose borders are counted in full. */
static struct work conv_work(const struct kernels *k, const struct head *h, enum algo a, enum part part)
{
	const struct conv_shape *s = &h->shape;
	bool back = part == PART_DGRAD;
	int64_t kk = s->k * s->k, all = s->oh * (int64_t)s->ow * kk, ic = s->plain_src ? s->ic : pad8(s->ic), oc = pad8(s->oc);
	int64_t inside = pairs(s->ih, s->oh, s) * pairs(s->iw, s->ow, s);
	int64_t tiles = (int64_t)(((back ? s->ih : s->oh) + 3) / 4) * (((back ? s->iw : s->ow) + 3) / 4);

	switch (a) {
	case WINOGRAD: /* 36 products a tile of 4x4 outputs; with half floats inputs in whole vectors, outputs in pairs of them */
		if (h->bf16) {
			int from = back ? s->oc : s->ic, to = back ? s->ic : s->oc;
			return (struct work){ 36 * tiles * pad8(from) * ((to + 15) / 16 * 16), bf16_filter_halves(from, to) / 2, READS_DX };
		}
		return (struct work){ 36 * tiles * (back ? s->oc * ic : s->ic * oc), part == PART_WGRAD ? h->ndw
		    : wino_filter_floats(back ? s->oc : s->ic, back ? s->ic : s->oc), READS_DX };
	case POLYPHASE:
		return (struct work){ poly_products(&h->direct, back) * (back ? s->oc * ic : s->ic * oc), part == PART_WGRAD ? h->ndw
		    : poly_filter_floats(&h->direct, back), READS_DX };
	case DEPTHWISE:
		return (struct work){ inside * oc, oc * kk, READS_DX };
	case DIRECT:
		if (part == PART_WGRAD)
			return (struct work){ inside * s->ic * oc, h->ndw, READS_DX };
		return (struct work){ back ? back_pairs(s->ih, s) * back_pairs(s->iw, s) * s->oc * ic : all * s->ic * oc,
			direct_filter_floats(&h->direct, back), READS_DX };
	case IMAGE:
		return (struct work){ inside * s->ic * oc, oc * s->ic * kk, READS_DX };
	case IMAGE_BACK: /* columns go over the border */
		return (struct work){ pairs(s->ih, s->oh, s) * strips(s, k) * s->k * s->ic * oc, oc * s->ic * kk,
			h->image_raw ? READS_DY : READS_DZ };
	case IMAGE_WGRAD:
		return (struct work){ all * s->ic * oc, h->ndw, READS_DZ };
	default:
		return (struct work){ all * ic * oc, dnn_conv_weights(h->dnn, part == PART_FORWARD ? CONV_FWD : back ? CONV_DGRAD
		    : CONV_WGRAD), READS_DX };
	}
}

struct work cpu_work(const struct plan *p, int i, enum part part)
{
	const struct stage *s = &p->stage[i];
	const struct node *n = &p->net->node[MAX(s->head, 0)];
	enum algo a = algo_of(p, s, part);

	if (s->head < 0 || part == PART_EPILOGUE || part == PART_UNDO || a == NOTHING)
		return (struct work){ 0 };
	if (a == LINEAR) {
		int64_t weights = (int64_t)n->c * p->net->node[n->in[0]].c;
		return (struct work){ weights, weights, READS_DX };
	}
	return conv_work(((struct cpu *)p->be_data)->k, &((struct exec *)s->exec)->head, a, part);
}
