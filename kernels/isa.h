/* The functions of kernels.h's table, declared for the instruction set ISA that is being compiled. */
#ifndef ISA_H
#define ISA_H

void KERNEL(sums)(double *, double *, const float *, const float *, int, int, int);
void KERNEL(sums_back)(double *, double *, const float *, const float *, const float *, int, int, int);
void KERNEL(epilogue)(float *, uint8_t *, const float *, const float *, const float *, const float *, int, int, int, bool,
    bool);
void KERNEL(gather)(float *, const float *const *, int, const uint8_t *, int, int, int, bool);
void KERNEL(affine_back)(float *, const float *, const float *, const float *, const float *, const float *, const float *,
    int, int64_t);
void KERNEL(image_dgrad)(float *, const float *, const float *, int, int, int, int, int, int, int, int, int);
void KERNEL(image_back)(float *, const struct feature_grad *, const float *, float *, int, int, int, int, int);
void KERNEL(image_wgrad)(float *, float *, const struct feature_grad *, const float *, float *, int, int, int, int);
void KERNEL(direct_filter)(float *, const float *, const struct direct_shape *, bool);
void KERNEL(direct_conv)(float *, const float *, const float *, const float *, float *, int, const struct direct_shape *);
void KERNEL(direct_dgrad)(float *, const float *, const float *, float *, int, const struct direct_shape *);
void KERNEL(poly_filter)(float *, const float *, const struct direct_shape *, bool);
void KERNEL(poly_conv)(float *, const float *, const float *, const float *, float *, int, const struct direct_shape *);
void KERNEL(poly_dgrad)(float *, const float *, const float *, float *, int, const struct direct_shape *);
void KERNEL(poly_wgrad)(float *, const float *, const float *, float *, int, const struct direct_shape *);
void KERNEL(image_conv)(float *, const float *, const float *, const float *, int, int, int, int, int, int, int, int, int);
void KERNEL(conv_wgrad)(float *, const float *, const float *, int, int, int, bool, int, int, int, int, int, int);
void KERNEL(dw_conv)(float *, const float *, const float *, const float *, int, int, int, int, int, int, int, int);
void KERNEL(dw_dgrad)(float *, const float *, const float *, int, int, int, int, int, int, int, int);
void KERNEL(dw_wgrad)(float *, const float *, const float *, int, int, int, int, int, int, int, int);
void KERNEL(act)(float *, const float *, enum act, int64_t);
void KERNEL(act_back)(float *, const float *, const float *, enum act, int64_t);
void KERNEL(max_pool)(float *, uint8_t *, const float *, const struct pool_shape *);
void KERNEL(max_pool_back)(float *, const float *, const uint8_t *, const struct pool_shape *);
void KERNEL(avg_pool)(float *, const float *, const struct pool_shape *);
void KERNEL(avg_pool_back)(float *, const float *, const struct pool_shape *);
void KERNEL(mean)(float *, const float *, int, int64_t);
void KERNEL(mean_back)(float *, const float *, int, int64_t);
void KERNEL(linear)(float *, const float *, const float *, const float *, int, int, int, size_t, size_t);
void KERNEL(linear_dgrad)(float *, const float *, const float *, int, int, int, size_t, size_t);
void KERNEL(linear_wgrad)(float *, const float *, const float *, int, int, int, size_t, size_t);
void KERNEL(wino_filter)(float *, const float *, int, int, bool);
void KERNEL(wino_conv)(float *, const float *, const float *, const float *, float *, int, const struct wino_shape *);
void KERNEL(wino_wgrad)(float *, const float *, const float *, float *, int, const struct wino_shape *);

#endif
