#include "training.h"

#include <string.h>

int training_resume(struct training *t, const char *path, struct val *output, struct val *data, struct val *pool,
	char err[ERRLEN])
{
	struct val *mine = val_map();

	t->path = path;
	val_put(mine, "output", output);
	val_put(mine, "data", data);
	if (pool)
		val_put(mine, "pool", pool);
	return state_resume(&t->state, path, mine, err) < 0 ? -1 : 0;
}

void training_free(struct training *t)
{
	if (t->path)
		state_free(&t->state);
}

const struct buf *training_kept(const struct training *t, const char *name)
{
	return t->path ? state_array(&t->state, name) : NULL;
}

void training_keep(struct training *t, const char *name, const struct buf *ck)
{
	if (t->path)
		state_set(&t->state, name, ck->p, ck->len);
}

int training_save(struct training *t, struct learner *l, const struct net *net, int member, int epoch, char err[ERRLEN])
{
	struct learner_part part[LEARNER_PARTS];
	int n = l ? learner_parts(l, net, part) : 0;

	if (!t->path)
		return 0;
	val_put(t->state.header, "member", val_int(member));
	val_put(t->state.header, "epoch", val_int(epoch));
	val_put(t->state.header, "step", val_int(l ? l->opt.step : 0));
	for (int i = 0; i < n; i++)
		state_set(&t->state, part[i].name, part[i].p, part[i].bytes);
	return state_write(&t->state, t->path, err);
}

int training_restore(const struct training *t, struct learner *l, const struct net *net, int member, int last,
	int64_t steps, char err[ERRLEN])
{
	const struct val *h = t->path ? t->state.header : NULL;
	struct learner_part part[LEARNER_PARTS];
	int n = learner_parts(l, net, part), epoch = val_get_int(h, "epoch", 0);
	int64_t step = val_get_int(h, "step", 0);

	if (!epoch || val_get_int(h, "member", member) != member)
		return 0;
	if (epoch < 0 || epoch > last || step != epoch * steps)
		return fail(err, "%s: its header has no epoch that the run can have reached", t->path);
	for (int i = 0; i < n; i++) {
		const void *p = state_get(&t->state, part[i].name, part[i].bytes);

		if (!p)
			return fail(err, "%s: no %s of this network in it", t->path, part[i].name);
		memcpy(part[i].p, p, part[i].bytes);
	}
	l->opt.step = l->steps = step;
	return epoch;
}
