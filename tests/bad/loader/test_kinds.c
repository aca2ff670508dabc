/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/test_kinds.c: what each kind of class must have. For every kind a class is made
 * that is right; then one thing at a time is taken away.
 */
#include "core/plug/plug.h"

#include <check.h>
#include <stdlib.h>

static lmoe_ctx ctx;
static lmoe__arena *arena;

static void setup(void)
{
    lmoe__ctx_init(&ctx);
    arena = lmoe__arena_new();
}

static void teardown(void)
{
    lmoe__arena_free(arena);
}

/* Something that a slot may point to: an empty list, an empty text, a function that nobody calls.
 */
static const lmoe_port port[] = {{"x", 0, LMOE_AMBIENT_NONE}, {NULL, 0, LMOE_AMBIENT_NONE}};

static void set_slot(lmoe_class *c, const lmoe__slot *s, const void *p)
{
    memcpy((char *)c + s->offset, &p, sizeof p);
}

/* A class of this kind with nothing wrong, one word longer than this host knows. */
static lmoe_class *right(const lmoe__kind *k)
{
    lmoe_class *c = lmoe__arena_alloc(arena, k->size + 8);
    c->size = k->size + 8;
    c->kind = k->id;
    c->name = k->folder                          ? lmoe__arena_printf(arena, "%s/a", k->folder)
              : strcmp(k->id, LMOE_KIND_OP) == 0 ? "vendor.x/a/1"
                                                 : "cpu/a avx2";
    c->summary = "A test.";
    for (const lmoe__slot *s = k->required; s->name; s++) set_slot(c, s, port);
    return c;
}

/* What a plugin's class goes through. */
static lmoe_status pass(const lmoe_class *c)
{
    lmoe__ctx_clear(&ctx);
    LMOE_TRY(lmoe__kind_check_sizes(&ctx, "x.so", c));
    return lmoe__kind_check(&ctx, "x.so", lmoe__kind_copy(arena, c));
}

static void assert_fails(const lmoe_class *c, const char *part)
{
    ck_assert_int_eq(pass(c), LMOE_E_USAGE);
    ck_assert_msg(strncmp(ctx.message, "x.so: ", 6) == 0 && strstr(ctx.message, part),
                  "'%s' is not in '%s'", part, ctx.message);
}

START_TEST(each_kind)
{
    const lmoe__kind *k = lmoe__kind_at(_i);
    ck_assert_ptr_eq(lmoe__kind_find(k->id), k);
    lmoe_class *c = right(k);
    ck_assert_msg(pass(c) == LMOE_OK, "%s", ctx.message);

    c->size = k->need;
    ck_assert_int_eq(pass(c), LMOE_OK);
    c->size = k->need - 1;
    assert_fails(c, "bytes, but ABI 1 has at least");
    c->size = k->size;

    for (const lmoe__slot *s = k->required; s->name; s++) {
        set_slot(c, s, NULL);
        assert_fails(c, lmoe__arena_printf(arena, "leaves '%s' out", s->name));
        set_slot(c, s, port);
    }
    c->summary = "";
    assert_fails(c, "has no summary");
    c->summary = "A test.";
    c->name = NULL;
    assert_fails(c, "has no name");
    c->name = "";
    assert_fails(c, "name '' ");
    c->name = "moe";
    if (k->folder) assert_fails(c, "or \"vendor.x/NAME\"");
    c->name = "vendor.x/a";
    if (k->folder) ck_assert_int_eq(pass(c), LMOE_OK);
}
END_TEST

START_TEST(missing_tail)
{
    /* What the plugin does not have reads as absent, whatever follows its struct in memory. */
    const lmoe__kind *k = lmoe__kind_find(LMOE_KIND_KERNEL);
    lmoe_kernel *kernel = (lmoe_kernel *)right(k);
    kernel->release = free;
    kernel->base.size = offsetof(lmoe_kernel, release);
    const lmoe_kernel *copy = (const lmoe_kernel *)lmoe__kind_copy(arena, &kernel->base);
    ck_assert_ptr_null(copy->release);
    ck_assert_ptr_nonnull(copy->launch);
}
END_TEST

START_TEST(ops)
{
    lmoe_op *op = (lmoe_op *)right(lmoe__kind_find(LMOE_KIND_OP));
    static const char *const bad[] = {"vendor.x/a", "vendor.x/a/0",   "vendor.x/a/1x", "a",
                                      "/1",         "vendor.x/a b/1", "x/a/1",         "../1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        op->base.name = bad[i];
        assert_fails(&op->base, "must be \"vendor.x/NAME/REVISION\"");
    }
    op->base.name = "vendor.x/a/12";
    ck_assert_int_eq(pass(&op->base), LMOE_OK);

    static const lmoe_port changed[] = {{"x", LMOE_PORT_MUTATES, LMOE_AMBIENT_NONE},
                                        {NULL, 0, LMOE_AMBIENT_NONE}};
    op->outputs = port + 1;
    assert_fails(&op->base, "it has no effect");
    op->inputs = changed; /* an optimiser: what it changes is its effect */
    ck_assert_msg(pass(&op->base) == LMOE_OK, "%s", ctx.message);
    op->inputs = port;
    op->outputs = port;
    lmoe_port many[LMOE_MAX_IO + 2];
    for (int i = 0; i < LMOE_MAX_IO + 2; i++) many[i] = port[0];
    op->inputs = many;
    assert_fails(&op->base, "at most 20 inputs");
    op->inputs = port;
    op->base.options_size = LMOE_MAX_ATTRS + 1;
    assert_fails(&op->base, "257 bytes of attributes; at most 256");
    op->base.options_size = 0;

    lmoe_carry carry = {.size = sizeof carry, .count = 1, .in = 0, .out = 0};
    memcpy(&carry.shape, &op->shape, sizeof carry.shape);
    op->carry = &carry;
    ck_assert_msg(pass(&op->base) == LMOE_OK, "%s", ctx.message);
    carry.in = 1;
    assert_fails(&op->base, "declares a carry of 1 tensors from input 1");
    carry.in = 0;
    carry.summary = "vendor.x/s/1";
    assert_fails(&op->base, "must name both a summary and a combine op");
    carry.summary = NULL;
    carry.size = 8;
    assert_fails(&op->base, "the carry of op 'vendor.x/a/12' says that it has 8 bytes");
}
END_TEST

START_TEST(devices)
{
    lmoe_device *device = (lmoe_device *)right(lmoe__kind_find(LMOE_KIND_DEVICE));
    lmoe_kernel *kernel = (lmoe_kernel *)right(lmoe__kind_find(LMOE_KIND_KERNEL));
    const lmoe_kernel *kernels[] = {kernel, NULL};
    device->kernels = kernels;
    ck_assert_msg(pass(&device->base) == LMOE_OK, "%s", ctx.message);
    const lmoe_device *copy = (const lmoe_device *)lmoe__kind_copy(arena, &device->base);
    ck_assert_ptr_ne(copy->kernels[0], kernel);
    ck_assert_str_eq(copy->kernels[0]->base.name, kernel->base.name);
    ck_assert_ptr_null(copy->kernels[1]);

    kernel->base.size = sizeof(lmoe_class);
    assert_fails(&device->base, "a kernel of device 'device/a' says that it has 56 bytes");
    kernel->base.size = sizeof *kernel;
    kernel->base.kind = LMOE_KIND_LAYER;
    assert_fails(&device->base, "kernel 0 of device 'device/a' is of kind lmoe.layer/1");
    kernel->base.kind = LMOE_KIND_KERNEL;
    kernel->launch = NULL;
    assert_fails(&device->base, "kernel 'cpu/a avx2' leaves 'launch' out");
    memcpy(&kernel->launch, &device->info, sizeof kernel->launch);
    memcpy(&device->replay, &device->info, sizeof device->replay);
    assert_fails(&device->base, "all of capture_begin, capture_end and replay, or none");
}
END_TEST

START_TEST(communicators)
{
    lmoe_comm *comm = (lmoe_comm *)right(lmoe__kind_find(LMOE_KIND_COMM));
    comm->base.flags = LMOE_COMM_THREADS;
    assert_fails(&comm->base, "so it must have group_create and group_destroy");
}
END_TEST

int main(void)
{
    int n = 0;
    while (lmoe__kind_at(n)) n++;
    Suite *s = suite_create("kinds");
    TCase *c = tcase_create("kinds");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_loop_test(c, each_kind, 0, n);
    tcase_add_test(c, missing_tail);
    tcase_add_test(c, ops);
    tcase_add_test(c, devices);
    tcase_add_test(c, communicators);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
