/* SPDX-License-Identifier: Apache-2.0
 * tests/abi/test_grown.c: a host of a later API, in which every struct that may grow has grown: it
 * loads the plugins of today's and of older headers, and what they do not know reads as absent.
 * LMOE_OLDER: their files, separated by ':'.
 */
#include "core/plug/plug.h"

#include <check.h>
#include <stdlib.h>

/* The slot that this host's table has more. */
int64_t lmoe_later(lmoe_trace *t)
{
    return 1;
}

static void check_kernel(const lmoe_kernel *k)
{
    ck_assert_ptr_null(k->later);
    ck_assert_ptr_nonnull(k->score);
    ck_assert_ptr_nonnull(k->launch);
}

/* A slot at the end of what the plugin knows is there, one behind it is not. */
static void check_class(const lmoe_class *c)
{
    if (strcmp(c->kind, LMOE_KIND_LAYER) == 0) {
        const lmoe_layer *x = (const lmoe_layer *)c;
        ck_assert_ptr_nonnull(x->forward);
        ck_assert_ptr_null(x->later);
    } else if (strcmp(c->kind, LMOE_KIND_ROUTER) == 0) {
        const lmoe_router *x = (const lmoe_router *)c;
        ck_assert_ptr_nonnull(x->forward);
        ck_assert_ptr_null(x->later);
    } else if (strcmp(c->kind, LMOE_KIND_OP) == 0) {
        const lmoe_op *x = (const lmoe_op *)c;
        ck_assert_ptr_nonnull(x->sample);
        ck_assert_ptr_null(x->later);
        if (x->carry) ck_assert_ptr_null(x->carry->later);
    } else if (strcmp(c->kind, LMOE_KIND_COMM) == 0) {
        const lmoe_comm *x = (const lmoe_comm *)c;
        ck_assert_ptr_nonnull(x->message);
        ck_assert_ptr_null(x->later);
    } else if (strcmp(c->kind, LMOE_KIND_STRATEGY) == 0) {
        const lmoe_strategy *x = (const lmoe_strategy *)c;
        ck_assert_ptr_nonnull(x->place);
        ck_assert_ptr_null(x->later);
    } else if (strcmp(c->kind, LMOE_KIND_DEVICE) == 0) {
        const lmoe_device *x = (const lmoe_device *)c;
        ck_assert_ptr_null(x->later);
        for (const lmoe_kernel *const *k = x->kernels; *k; k++) check_kernel(*k);
    } else {
        check_kernel((const lmoe_kernel *)c);
    }
}

START_TEST(older_plugins)
{
    lmoe_ctx ctx;
    int seen = 0;
    lmoe__ctx_init(&ctx);
    lmoe__registry *r = lmoe__registry_new(NULL);
    char *files = strdup(getenv("LMOE_OLDER")), *save = NULL;
    for (char *f = strtok_r(files, ":", &save); f; f = strtok_r(NULL, ":", &save)) {
        ck_assert_msg(lmoe__registry_open(r, &ctx, f) == LMOE_OK, "%s", ctx.message);
    }
    const lmoe__plugin *p;
    for (int i = 0; (p = lmoe__registry_plugin(r, i)); i++) {
        ck_assert_int_lt(p->info.api_min, lmoe__host()->api_minor);
        for (int k = 0; k < p->n_classes; k++, seen++) {
            /* shorter than this host's, so the test tests something */
            ck_assert_uint_lt(p->info.classes[k]->size, lmoe__kind_find(p->classes[k]->kind)->size);
            check_class(p->classes[k]);
        }
    }
    ck_assert_int_ge(seen, 8);
    free(files);
    lmoe__registry_free(r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("grown");
    TCase *c = tcase_create("grown");
    tcase_add_test(c, older_plugins);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
