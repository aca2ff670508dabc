/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/needed.c: a library for needs.c.
 */
int needed(void);
int needed(void)
{
    return 0;
}
