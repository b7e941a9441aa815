/* What a plan decides before any backend hears of it: which nodes run together, what must be kept, in which order and
 * where in memory. */
#include <stdlib.h>

#include "../kernels/sizes.h"
#include "engine.h"

/* The image is plain; features are the backend's own layout, flat ones too: maps of 1 x 1. */
enum layout node_layout(const struct net *net, int i)
{
	const struct node *n = &net->node[i];

	if (n->op == OP_AFFINE)
		return node_layout(net, n->in[0]);
	return n->op == OP_INPUT ? PLAIN : BLOCKED;
}

static int consumers(const struct net *net, int i)
{
	int k = 0;

	for (int j = i + 1; j < net->nnode; j++)
		for (int e = 0; e < net->node[j].nin; e++)
			k += net->node[j].in[e] == i;
	return k;
}

static bool fusible_pool(const struct node *n)
{
	return n->op == OP_AVGPOOL && n->k == 2 && n->stride == 2;
}

/* The node that alone consumes node i and may follow it in a stage, or -1. */
static int successor(const struct net *net, int i)
{
	if (consumers(net, i) != 1)
		return -1;
	for (int j = i + 1; j < net->nnode; j++)
		for (int e = 0; e < net->node[j].nin; e++)
			if (net->node[j].in[e] == i)
				return j;
	return -1;
}

bool op_reads_input(enum op op)
{
	return op == OP_SILU || op == OP_MUL;
}

bool op_reads_output(enum op op)
{
	return op == OP_RELU6 || op == OP_SIGMOID;
}

/* What training alone does. */
static bool idle(const struct plan *p, const struct node *n)
{
	return (n->op == OP_DROPOUT || n->op == OP_DROPPATH) && p->opts.purpose != PLAN_TRAIN;
}

/* Groups nodes into stages, in an order in which every stage's inputs come earlier. An add joins the chain of its last
 * operand in node order, so that the other is ready as the residual. */
int make_stages(struct plan *p, char err[ERRLEN])
{
	const struct net *net = p->net;
	int *stage_of = emalloc(net->nnode * sizeof *stage_of);
	int rc = 0;

	p->stage = ecalloc(net->nnode, sizeof *p->stage);
	for (int i = 0; i < net->nnode; i++)
		stage_of[i] = -1;
	for (int i = 0; i < net->nnode; i++) {
		const struct node *n = &net->node[i];
		struct stage *s = &p->stage[p->nstage];

		if (stage_of[i] >= 0)
			continue;
		*s = (struct stage){ .solo = -1, .head = -1, .norm = -1, .add = -1, .relu = -1, .pool = -1, .in = -1, .res = -1,
			.out = i, .in_stage = -1, .res_stage = -1, .x = -1, .y = -1, .mask = -1, .dz = -1, .dx = -1, .gin = -1,
			.gres = -1, .tap = -1 };
		if (n->nin)
			s->in = n->in[0];
		switch (n->op) {
		case OP_CONV:
		case OP_LINEAR: s->head = i; break;
		case OP_BN:
		case OP_IN:     s->norm = i; break;
		case OP_ADD:    s->add = i, s->res = n->in[1]; break;
		case OP_RELU:   s->relu = i; break;
		default:
			s->solo = i;
			if (n->nin > 1)
				s->res = n->in[1];
		}
		stage_of[i] = p->nstage;
		for (int last = i; s->solo < 0;) {
			int j = successor(net, last);
			const struct node *m = j < 0 ? NULL : &net->node[j];
			bool none = s->add < 0 && s->relu < 0 && s->pool < 0;

			if (!m)
				break;
			if ((m->op == OP_BN || m->op == OP_IN) && none && s->norm < 0)
				s->norm = j;
			else if (m->op == OP_ADD && none) {
				int other = m->in[m->in[0] == last];
				if (m->in[0] == m->in[1] || stage_of[other] < 0 || p->stage[stage_of[other]].out != other)
					break; /* the other operand comes later: its chain will take the add */
				s->add = j, s->res = other;
			} else if (m->op == OP_RELU && s->relu < 0 && s->pool < 0)
				s->relu = j;
			else if (fusible_pool(m) && s->pool < 0)
				s->pool = j;
			else if (!idle(p, m))
				break;
			stage_of[j] = p->nstage;
			s->out = last = j;
		}
		p->nstage++;
	}
	for (int i = 0; i < p->nstage && rc == 0; i++) {
		struct stage *s = &p->stage[i];
		s->in_stage = s->in < 0 ? -1 : stage_of[s->in];
		s->res_stage = s->res < 0 ? -1 : stage_of[s->res];
		if (s->in_stage >= i || s->res_stage >= i)
			rc = fail(err, "node %s: no order of stages was found", net->node[s->out].name);
		if (s->solo >= 0 && net->node[s->solo].op == OP_AFFINE && node_layout(net, s->solo) != PLAIN)
			rc = fail(err, "node %s: an affine is possible on the image only", net->node[s->solo].name);
		if (s->solo < 0 && node_layout(net, s->in) == PLAIN && s->head < 0)
			rc = fail(err, "node %s: only a convolution may follow the image", net->node[s->out].name);
		if (s->solo >= 0 && s->in >= 0 && node_layout(net, s->in) == PLAIN && net->node[s->solo].op != OP_AFFINE)
			rc = fail(err, "node %s: %s of the image itself", net->node[s->solo].name, op_name[net->node[s->solo].op]);
		if (s->head >= 0 && net->node[s->head].op == OP_LINEAR && s->in_stage == 0)
			rc = fail(err, "node %s: a linear of the image itself", net->node[s->head].name);
		if (s->res >= 0 && node_layout(net, s->res) == PLAIN)
			rc = fail(err, "node %s: %s of the image itself", net->node[s->out].name, op_name[net->node[s->out].op]);
		if (s->solo >= 0 && net->node[s->solo].op == OP_MAXPOOL && net->node[s->solo].k > 15)
			rc = fail(err, "node %s: a window of %d (at most 15)", net->node[s->solo].name, net->node[s->solo].k);
		if (consumers(net, s->out) > (i ? (int)LEN(s->dy) : 1))
			rc = fail(err, "node %s: %d nodes use its output", net->node[s->out].name, consumers(net, s->out));
	}
	free(stage_of);
	return rc;
}

bool stage_keeps_x(const struct plan *p, const struct stage *s)
{
	return (s->norm >= 0 || s->tap >= 0) && p->opts.purpose != PLAN_EVAL;
}

/* Training: nothing before the first parameter needs a gradient. */
static bool learns(const struct plan *p, int i)
{
	return i >= 0 && (p->stage[i].head >= 0 || p->stage[i].norm >= 0 || learns(p, p->stage[i].in_stage) ||
	    learns(p, p->stage[i].res_stage));
}

bool stage_needs_gin(const struct plan *p, const struct stage *s)
{
	if (s->in < 0 || p->opts.purpose == PLAN_EVAL)
		return false;
	if (p->opts.purpose == PLAN_SYNTH)
		return true;
	return learns(p, s->in_stage);
}

static int new_buffer(struct plan *p, size_t floats)
{
	p->buffer = erealloc(p->buffer, p->nbuffer + 1, sizeof *p->buffer);
	p->buffer[p->nbuffer] = (struct buffer){ .floats = floats, .first = INT32_MAX, .last = -1 };
	return p->nbuffer++;
}

static size_t node_floats(const struct plan *p, int node)
{
	return p->be->floats(p, &p->net->node[node], node_layout(p->net, node));
}

/* Values of a feature map with its channels padded: a mask has a bit for each, a pool's choice a byte. */
static size_t cells(const struct node *n)
{
	return (size_t)pad8(n->c) * n->h * n->w;
}

void make_buffers(struct plan *p)
{
	bool back = p->opts.purpose != PLAN_EVAL;

	for (int i = 0; i < p->nstage; i++) {
		struct stage *s = &p->stage[i];
		bool epilogue = s->norm >= 0 || s->add >= 0 || s->relu >= 0 || s->pool >= 0;

		if (s->in < 0) { /* the image is the caller's; a device wants it as it wants feature maps */
			s->y = p->be->host ? -1 : new_buffer(p, node_floats(p, s->out));
			continue;
		}
		if (s->head >= 0)
			s->x = new_buffer(p, node_floats(p, s->head));
		else
			s->x = p->stage[s->in_stage].y;
		s->y = s->head >= 0 && !epilogue ? s->x : new_buffer(p, node_floats(p, s->out));
		if (back && s->relu >= 0)
			s->mask = new_buffer(p, (cells(&p->net->node[s->relu]) / 8 + 3) / 4);
		if (back && s->solo >= 0 && p->net->node[s->solo].op == OP_MAXPOOL)
			s->mask = new_buffer(p, (cells(&p->net->node[s->out]) + 3) / 4);
	}
	if (!back)
		return;
	for (int i = p->nstage - 1; i > 0; i--) {
		struct stage *s = &p->stage[i];
		bool epilogue = s->norm >= 0 || s->add >= 0 || s->relu >= 0 || s->pool >= 0;
		bool gin = stage_needs_gin(p, s);

		if (epilogue || s->ndy > 1 || s->tap >= 0) {
			int before = s->pool >= 0 ? p->net->node[s->pool].in[0] : s->out;
			s->dz = new_buffer(p, node_floats(p, before));
			/* dx may overwrite dz unless a residual's branch still reads it. */
			s->dx = s->res >= 0 && (s->norm >= 0 || s->tap >= 0) ? new_buffer(p, node_floats(p, before)) : s->dz;
		}
		if (gin && s->in_stage > 0) {
			struct stage *from = &p->stage[s->in_stage];
			s->gin = s->head >= 0 || s->solo >= 0 ? new_buffer(p, node_floats(p, s->in)) : s->dx;
			from->dy[from->ndy++] = s->gin;
		} else if (gin && !p->be->host)
			s->gin = new_buffer(p, node_floats(p, s->in));
		if (s->res_stage > 0) {
			struct stage *from = &p->stage[s->res_stage];
			s->gres = s->solo >= 0 ? new_buffer(p, node_floats(p, s->res)) : s->dz;
			from->dy[from->ndy++] = s->gres;
		}
	}
}

static void touch(struct plan *p, int buffer, int call)
{
	struct buffer *b = buffer < 0 ? NULL : &p->buffer[buffer];

	if (b) {
		b->first = MIN(b->first, call);
		b->last = MAX(b->last, call);
	}
}

/* The order of calls, with a barrier wherever a batch-wide reduction must be complete. */
void make_calls(struct plan *p)
{
	bool train = p->opts.purpose == PLAN_TRAIN, back = p->opts.purpose != PLAN_EVAL;
	int phase = 0;

	p->call = ecalloc(4 * p->nstage, sizeof *p->call);
	for (int i = 1; i < p->nstage; i++) {
		bool bn = p->stage[i].norm >= 0 && p->net->node[p->stage[i].norm].op == OP_BN;
		p->call[p->ncall++] = (struct call){ F_HEAD, i, phase };
		phase += train && bn;
		p->call[p->ncall++] = (struct call){ F_EPILOGUE, i, phase };
	}
	p->nforward = p->ncall;
	phase++;
	for (int i = p->nstage - 1; back && i > 0; i--) {
		bool bn = p->stage[i].norm >= 0 && p->net->node[p->stage[i].norm].op == OP_BN;
		p->call[p->ncall++] = (struct call){ B_EPILOGUE, i, phase };
		phase += train && bn;
		p->call[p->ncall++] = (struct call){ B_HEAD, i, phase };
	}
	for (int c = 0; c < p->ncall; c++) {
		const struct stage *s = &p->stage[p->call[c].stage];
		int in = p->stage[s->in_stage].y;

		switch (p->call[c].what) {
		case F_HEAD:
			touch(p, in, c);
			touch(p, s->x, c);
			break;
		case F_EPILOGUE:
			touch(p, s->x, c);
			touch(p, s->y, c);
			touch(p, s->mask, c);
			if (s->res_stage >= 0)
				touch(p, p->stage[s->res_stage].y, c);
			break;
		case B_EPILOGUE:
			for (int j = 0; j < s->ndy; j++)
				touch(p, s->dy[j], c);
			touch(p, s->mask, c);
			touch(p, s->dz, c);
			if (stage_keeps_x(p, s))
				touch(p, s->x, c);
			break;
		case B_HEAD:
			for (int j = 0; j < s->ndy && s->dz < 0; j++)
				touch(p, s->dy[j], c); /* no epilogue: the sum of gradients goes straight to the head */
			touch(p, s->dz, c);
			touch(p, s->dx, c);
			touch(p, s->gin, c);
			if (s->in_stage == 0)
				touch(p, s->gin, p->ncall - 1); /* read when all is over */
			touch(p, s->gres, c);
			touch(p, s->mask, c);
			if (s->solo >= 0 && op_reads_output(p->net->node[s->solo].op))
				touch(p, s->y, c);
			if (s->solo >= 0 && op_reads_input(p->net->node[s->solo].op)) {
				touch(p, in, c);
				if (s->res_stage >= 0)
					touch(p, p->stage[s->res_stage].y, c);
			}
			if (stage_keeps_x(p, s))
				touch(p, s->x, c);
			if (train && s->head >= 0)
				touch(p, in, c);
			break;
		}
	}
}

/* First fit over lifetimes; offsets keep 64-byte lines, images of one buffer lie one after another without slack. What
 * crosses a barrier counts in whole phases, since within one the chunks run apart. */
void place_buffers(struct plan *p)
{
	for (int i = 0; i < p->nbuffer; i++) {
		struct buffer *b = &p->buffer[i];
		if (b->last < 0)
			continue;
		b->batch = p->call[b->first].phase != p->call[b->last].phase;
		if (b->batch) {
			int first = p->call[b->first].phase, last = p->call[b->last].phase;
			while (b->first > 0 && p->call[b->first - 1].phase == first)
				b->first--;
			while (b->last + 1 < p->ncall && p->call[b->last + 1].phase == last)
				b->last++;
		}
	}
	for (int i = 0; i < p->nbuffer; i++) {
		struct buffer *b = &p->buffer[i];
		size_t *top = b->batch ? &p->batch_floats : &p->chunk_floats;
		bool moved = b->last >= 0;

		while (moved) { /* past every earlier buffer that it would overlap in place and time */
			moved = false;
			for (int j = 0; j < i; j++) {
				struct buffer *o = &p->buffer[j];
				/* Calls 2i and 2i+1 are one stage's halves and run interleaved: one moment. */
				if (o->last >= 0 && o->batch == b->batch && o->first / 2 <= b->last / 2 &&
				    b->first / 2 <= o->last / 2 && o->offset < b->offset + b->floats &&
				    b->offset < o->offset + o->floats) {
					b->offset = (o->offset + o->floats + 15) / 16 * 16;
					moved = true;
				}
			}
		}
		if (b->last >= 0)
			*top = MAX(*top, (b->offset + b->floats + 15) / 16 * 16);
	}
}
