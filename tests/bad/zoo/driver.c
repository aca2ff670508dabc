/* SPDX-License-Identifier: Apache-2.0
 * tests/bad/zoo/driver.c: stands for the driver of a GPU, which a machine need not have.
 */
int zoo_driver(void);

int zoo_driver(void)
{
    return 0;
}
