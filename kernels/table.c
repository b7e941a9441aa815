/* One table an instruction set: compiled once for each, with its ISA. */
#include "kernels.h"
#include "vec.h"
#include "isa.h"

#define STR_(x) #x
#define STR(x) STR_(x)

const struct kernels PASTE(kernels, ISA) = {
	.isa = STR(ISA),
#ifdef __AVX512F__
	.wide = true,
#endif
	.sums = KERNEL(sums),
	.sums_back = KERNEL(sums_back),
	.epilogue = KERNEL(epilogue),
	.gather = KERNEL(gather),
	.affine_back = KERNEL(affine_back),
	.image_dgrad = KERNEL(image_dgrad),
	.image_back = KERNEL(image_back),
	.image_wgrad = KERNEL(image_wgrad),
	.direct_filter = KERNEL(direct_filter),
	.direct_conv = KERNEL(direct_conv),
	.direct_dgrad = KERNEL(direct_dgrad),
	.poly_filter = KERNEL(poly_filter),
	.poly_conv = KERNEL(poly_conv),
	.poly_dgrad = KERNEL(poly_dgrad),
	.poly_wgrad = KERNEL(poly_wgrad),
	.image_conv = KERNEL(image_conv),
	.conv_wgrad = KERNEL(conv_wgrad),
	.dw_conv = KERNEL(dw_conv),
	.dw_dgrad = KERNEL(dw_dgrad),
	.dw_wgrad = KERNEL(dw_wgrad),
	.act = KERNEL(act),
	.act_back = KERNEL(act_back),
	.max_pool = KERNEL(max_pool),
	.max_pool_back = KERNEL(max_pool_back),
	.avg_pool = KERNEL(avg_pool),
	.avg_pool_back = KERNEL(avg_pool_back),
	.mean = KERNEL(mean),
	.mean_back = KERNEL(mean_back),
	.linear = KERNEL(linear),
	.linear_dgrad = KERNEL(linear_dgrad),
	.linear_wgrad = KERNEL(linear_wgrad),
	.wino_filter = KERNEL(wino_filter),
	.wino_conv = KERNEL(wino_conv),
	.wino_wgrad = KERNEL(wino_wgrad),
};
