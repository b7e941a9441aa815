/* What the machine can do, measured: the best of several, not what it did while others used it. Nothing is owned. */
#ifndef PEAK_H
#define PEAK_H

double peak_fma(int repeats);   /* GFLOP/s of multiply-adds in registers, all threads */
double peak_triad(int repeats); /* GB/s of a = b + 3*c, arrays far larger than the caches */

#endif
