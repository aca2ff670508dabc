/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/loader/no_symbol.c: exports no entry.
 */
extern int something_else;
int something_else = 1;
