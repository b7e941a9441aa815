#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "times.h"

static int threads;

void set_threads(int n)
{
	threads = n;
	omp_set_num_threads(n); /* for the loops that ask for no number */
}

int get_threads(void)
{
	return threads > 0 ? threads : MIN(omp_get_max_threads(), MAX_THREADS);
}

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
static int make_stages(struct plan *p, char err[ERRLEN])
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
	return p->be->floats(&p->net->node[node], node_layout(p->net, node));
}

static void make_buffers(struct plan *p)
{
	bool back = p->opts.purpose != PLAN_EVAL;

	for (int i = 0; i < p->nstage; i++) {
		struct stage *s = &p->stage[i];
		bool epilogue = s->norm >= 0 || s->add >= 0 || s->relu >= 0 || s->pool >= 0;

		if (s->in < 0)
			continue; /* the image is the caller's */
		if (s->head >= 0)
			s->x = new_buffer(p, node_floats(p, s->head));
		else
			s->x = p->stage[s->in_stage].y;
		s->y = s->head >= 0 && !epilogue ? s->x : new_buffer(p, node_floats(p, s->out));
		if (back && s->relu >= 0)
			s->mask = new_buffer(p, (p->be->floats(&p->net->node[s->relu], BLOCKED) / 8 + 3) / 4);
		if (back && s->solo >= 0 && p->net->node[s->solo].op == OP_MAXPOOL)
			s->mask = new_buffer(p, (node_floats(p, s->out) + 3) / 4);
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
		}
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
static void make_calls(struct plan *p)
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
		int in = s->in_stage > 0 ? p->stage[s->in_stage].y : -1;

		switch (p->call[c].what) {
		case F_HEAD:
			touch(p, in, c);
			touch(p, s->x, c);
			break;
		case F_EPILOGUE:
			touch(p, s->x, c);
			touch(p, s->y, c);
			touch(p, s->mask, c);
			if (s->res_stage > 0)
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
			touch(p, s->gres, c);
			touch(p, s->mask, c);
			if (s->solo >= 0 && op_reads_output(p->net->node[s->solo].op))
				touch(p, s->y, c);
			if (s->solo >= 0 && op_reads_input(p->net->node[s->solo].op)) {
				touch(p, in, c);
				if (s->res_stage > 0)
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

/* First fit over lifetimes; offsets keep 64-byte lines, images of one buffer lie one after another without slack. What crosses a barrier counts in whole phases, since within one the chunks run apart. */
static void place_buffers(struct plan *p)
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

static struct stage *stage_with(struct plan *p, int node)
{
	for (int i = 0; i < p->nstage; i++)
		if (p->stage[i].norm == node || p->stage[i].head == node)
			return &p->stage[i];
	return NULL;
}

/* Training needs those of batch norms only. */
static void make_taps(struct plan *p)
{
	int *at = emalloc(p->net->nnode * sizeof *at), n = net_matched(p->net, at);

	p->tap = ecalloc(n + 1, sizeof *p->tap);
	p->tap_ref = ecalloc(n + 1, sizeof *p->tap_ref);
	for (int i = 0; i < n && (p->opts.purpose != PLAN_TRAIN || p->net->node[at[i]].op == OP_BN); i++) {
		const struct node *v = &p->net->node[at[i]];
		size_t nc = (size_t)p->opts.batch * v->c;
		struct tap *t = &p->tap[i];

		stage_with(p, at[i])->tap = p->ntap++;
		p->tap_ref[i] = ealigned((v->c + 7) / 8 * 8, sizeof(float));
		*t = (struct tap){ .node = at[i], .c = v->c, .per = (int64_t)v->h * v->w, .ref = p->tap_ref[i] };
		t->sum = ealigned(nc, sizeof *t->sum);
		t->sumsq = ealigned(nc, sizeof *t->sumsq);
		if (p->opts.purpose == PLAN_SYNTH) {
			t->a = ealigned(nc, sizeof *t->a);
			t->b = ealigned(nc, sizeof *t->b);
		}
	}
	free(at);
}

struct plan *plan_new(const struct net *net, struct plan_opts o, char err[ERRLEN])
{
	struct plan *p = ecalloc(1, sizeof *p);
	double bytes;

	p->net = net;
	p->opts = o;
	p->be = &backend_cpu;
	if (o.purpose == PLAN_SYNTH)
		p->opts.taps = true;
	if (o.bf16 && o.purpose == PLAN_TRAIN) {
		fail(err, "training is in float");
		goto bad;
	}
	if (make_stages(p, err) < 0)
		goto bad;
	make_taps(p);
	p->chunk = p->be->chunk(p);
	make_buffers(p);
	make_calls(p);
	place_buffers(p);
	bytes = 4.0 * (p->batch_floats * (double)o.batch + p->chunk_floats * (double)p->chunk * get_threads());
	if (bytes > 1e13) {
		fail(err, "%s with a batch of %d would need %.0f GB", net->arch, o.batch, bytes / 1e9);
		goto bad;
	}
	if (p->be->compile(p, err) == 0) {
		plan_made(p);
		return p;
	}
bad:
	plan_free(p);
	return NULL;
}

static void count_times(const struct plan *p)
{
	double ms[PARTS];

	for (int i = 0; i < p->nstage; i++) {
		p->be->times(p, i, ms);
		for (int j = 0; j < PARTS; j++)
			times_add(j == PART_EPILOGUE || j == PART_UNDO ? TIME_MEMORY : TIME_ARITHMETIC, ms[j] / 1e3);
	}
}

void plan_free(struct plan *p)
{
	if (!p)
		return;
	if (p->ran)
		count_times(p);
	plan_over(p);
	p->be->release(p);
	for (int i = 0; i < p->ntap; i++) {
		free(p->tap[i].sum);
		free(p->tap[i].sumsq);
		free(p->tap[i].a);
		free(p->tap[i].b);
		free(p->tap_ref[i]);
	}
	free(p->tap);
	free(p->tap_ref);
	free(p->stage);
	free(p->buffer);
	free(p->call);
	free(p);
}

struct workspace *ws_new(void)
{
	return ecalloc(1, sizeof(struct workspace));
}

static void ws_reserve(struct workspace *w, size_t batch, size_t chunk, int nthread)
{
	if (batch > w->batch_floats) {
		free(w->batch);
		w->batch = ealigned(batch, sizeof(float));
		w->batch_floats = batch;
	}
	if (chunk > w->chunk_floats || nthread > w->nthread) {
		for (int i = 0; i < w->nthread; i++)
			free(w->chunk[i]);
		w->chunk_floats = MAX(chunk, w->chunk_floats);
		w->nthread = MAX(nthread, w->nthread);
		w->chunk = erealloc(w->chunk, w->nthread, sizeof *w->chunk);
		for (int i = 0; i < w->nthread; i++)
			w->chunk[i] = ealigned(w->chunk_floats, sizeof(float));
	}
}

void ws_free(struct workspace *w)
{
	if (!w)
		return;
	for (int i = 0; i < w->nthread; i++)
		free(w->chunk[i]);
	free(w->chunk);
	free(w->batch);
	free(w);
}

size_t ws_bytes(const struct workspace *w)
{
	return 4 * (w->batch_floats + w->nthread * w->chunk_floats);
}

void plan_bind(struct plan *p, struct workspace *ws)
{
	ws_reserve(ws, p->batch_floats * p->opts.batch, p->chunk_floats * p->chunk, get_threads());
	p->ws = ws;
}

void plan_load(struct plan *p, const struct weights *w)
{
	for (int i = 0; i < p->ntap; i++) {
		const struct node *n = &p->net->node[p->tap[i].node];
		if (n->op == OP_BN)
			memcpy(p->tap_ref[i], weights_param(p->net, w, n->param[P_MEAN]), n->c * sizeof(float));
	}
	p->be->load(p, w);
}

void plan_forward(struct plan *p, int n, const float *images, float *logits)
{
	if (get_threads() > p->ws->nthread)
		plan_bind(p, p->ws);
	p->ran = true;
	p->be->forward(p, n, images, logits);
}

void plan_draws(struct plan *p, uint32_t seed, uint32_t step)
{
	p->drops = true;
	p->drop_seed = seed;
	p->drop_step = step;
}

void plan_backward(struct plan *p, int n, const float *dlogits, float *dimages, float *dtheta)
{
	p->be->backward(p, n, dlogits, dimages, dtheta);
}

void plan_update_running(struct plan *p, int n, struct weights *w, double momentum)
{
	p->be->update_running(p, n, w, momentum);
}

int plan_ntaps(const struct plan *p)
{
	return p->ntap;
}

struct tap *plan_tap(struct plan *p, int i)
{
	return &p->tap[i];
}
