/* SPDX-License-Identifier: Apache-2.0
 * tests/run/layers.h: layers for tests of whole models of embed 16: each class, the plainest first,
 * then other options of it.
 */
#ifndef LMOE_TESTS_RUN_LAYERS_H
#define LMOE_TESTS_RUN_LAYERS_H

static const char *const layers[] = {
    "class = lsm/bla\nheads = 2",
    "class = lsm/bla\nheads = 2\nfeature_map = elu\nnormalize = yes",
    "class = lsm/retention\nheads = 2",
    "class = lsm/gla\nheads = 2\nlow_rank = 3",
    "class = lsm/gla\nheads = 2\nlow_rank = 3\nshort_conv = yes",
    "class = lsm/bla\nheads = 2\nfeature_map = hedgehog\noutput_gate = yes",
    "class = lsm/bla\nheads = 4\nkv_heads = 2\nfeature_map = elu\nsum_norm = qk",
    "class = lsm/simple_gla\nheads = 2",
    "class = lsm/lightning\nheads = 2",
    "class = lsm/hgrn2\nexpand_ratio = 8",
    "class = lsm/based\nheads = 2\nfeature_dim = 3",
    "class = lsm/rebased\nheads = 2\nfeature_dim = 3",
    "class = lsm/gfw\nheads = 2\nlow_rank = 3",
    "class = lsm/gsa\nheads = 2\nslots = 5",
    "class = lsm/rwkv6\nheads = 2\nproj_low_rank = 3\ngate_low_rank = 3\nnorm_eps = 0.1",
    "class = lsm/mamba2\nhead_dim = 8\nstate = 6\ngroups = 2",
    "class = lsm/mla\nheads = 2\nq_rank = 5\nkv_rank = 6\nnope_dim = 4\nrope_dim = 4\nv_dim = 3",
    "class = lsm/mla\nheads = 2\nkv_rank = 6\nnope_dim = 4\nrope_dim = 4\nv_dim = 3\nabsorb = yes",
    "class = lsm/mom\nheads = 2\nhead_dim = 4\nmemories = 3",
    "class = lsm/mom\nheads = 2\nhead_dim = 4\nmemory = gla\nlow_rank = 3\nshared = no",
    "class = lsm/log_linear\nhead_dim = 8\nstate = 4\nlevels = 6",
    "class = lsm/deltanet\nheads = 2",
    "class = lsm/deltanet\nheads = 2\nqk_activation = elu\nqk_norm = sum\nshort_conv = no\n"
    "use_gate = yes\nallow_neg_eigval = yes",
    "class = lsm/gated_deltanet\nheads = 2\nhead_dim = 6",
    "class = lsm/gated_deltanet\nheads = 2\nv_heads = 4\nhead_dim = 4\nshort_conv = no\n"
    "output_norm = no",
    "class = lsm/delta_product\nheads = 2\nhead_dim = 4",
    "class = lsm/delta_product\nheads = 2\nhead_dim = 4\nnum_householder = 3\nforget_gate = no\n"
    "use_gate = no",
    "class = lsm/comba\nheads = 2\nhead_dim = 4",
    "class = lsm/kda\nheads = 2\nhead_dim = 4",
    "class = lsm/kda\nheads = 2\nv_heads = 4\nhead_dim = 4\nlower_bound = -5",
    "class = lsm/rwkv7\nhead_dim = 8\ndecay_low_rank = 3\ngate_low_rank = 4\na_low_rank = 3\n"
    "v_low_rank = 2",
    "class = lsm/hgrn",
    "class = lsm/hgrn\nexpand = 1.5\nshort_conv = yes",
    "class = lsm/mamba\nstate = 4\ndt_rank = 3\ndt_scale = 10",
    "class = lsm/mamba\nstate = 1\nexpand = 1\ndt_scale = 10\nbias = yes\nconv_bias = no",
    "class = lsm/s4d\nstate = 6",
    "class = lsm/gateloop",
    "class = lsm/gateloop\nheads = 4\nsub_norm = yes",
    "class = lsm/ttt\nheads = 2\nmini_batch = 4\nbase_lr = 0.05",
    "class = lsm/ttt\nheads = 2\nmini_batch = 3\nshare_qk = yes\nuse_gate = yes",
    "class = lsm/titans\nheads = 2\nmini_batch = 4",
    "class = lsm/titans\nheads = 2\nmini_batch = 5\nshort_conv = no\ninner_norm = yes",
    "class = lsm/attention\nheads = 2",
    "class = lsm/attention\nheads = 4\nkv_heads = 2\nwindow = 5\nqk_norm = yes",
};
enum { N_LAYERS = sizeof layers / sizeof *layers };

#endif
