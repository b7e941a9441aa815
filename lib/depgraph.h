/* The dependency graph of a net: which channels must go together when some of them go (DepGraph, Fang et al. 2023).
 * A graph owns its arrays and borrows the net; depgraph_free().
 *
 * An *element* is one output channel of one node; the channels that a node reads are its inputs' elements. Elements of
 * neighbours are tied where a channel of the one is a channel of the other, and where a node cannot lose one of its
 * channels without another. A *producer*, a convolution or linear that mixes its channels, ties nothing: it makes new
 * ones. A *unit* is a largest set of tied elements, so the least that can be removed; a *group* is all units of
 * producers that share some.
 */
#ifndef DEPGRAPH_H
#define DEPGRAPH_H

#include <stdbool.h>

#include "net.h"

struct group {
	int root;       /* node: its first producer */
	int first, n;   /* its units, first..first+n-1, in the order of the root's channels */
	bool fixed;     /* holds the classes, or channels of the image: nothing of it may go */
};

struct depgraph {
	const struct net *net;
	int *element;        /* (nnode + 1) channel c of node i is element[i] + c */
	int *unit;           /* (elements) unit of an element; -1: of no producer, stays */
	int nunit, ngroup;
	struct group *group; /* (ngroup) in the order of their roots */
};

/* NULL and err for a net of more than MAX_ELEMENTS channels in all. */
enum { MAX_ELEMENTS = 1 << 26 };
struct depgraph *depgraph_new(const struct net *net, char err[ERRLEN]);
void depgraph_free(struct depgraph *g);

/* Its outputs are tied to none of its inputs: a dense or grouped convolution, or a linear. A convolution of one channel
 * a group (depthwise) is no producer; it loses whole groups, so its outputs go with its inputs. */
bool depgraph_producer(const struct net *net, int node);

/* gone (nunit): the units that are to go. Channels of node that stay; keep (its channels), if not NULL, is which. */
int depgraph_kept(const struct depgraph *g, const bool *gone, int node, bool *keep);

/* The net without them, its architecture's name with "-pruned" appended; NULL and err when it is none (a node without
 * channels), or the name becomes too long. */
struct net *depgraph_prune(const struct depgraph *g, const bool *gone, char err[ERRLEN]);
/* The weights of that net, from those of the whole one: (caller's) rows and columns left out. */
void depgraph_weights(const struct depgraph *g, const bool *gone, const struct weights *whole, const struct net *pruned,
    struct weights *out);

#endif
