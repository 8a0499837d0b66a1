// cmocka compares floats only: doubles, with the line of the caller.
#ifndef LOCKSTEP_TESTS_NEAR_H
#define LOCKSTEP_TESTS_NEAR_H

#include <math.h>

#define assert_near(a, b, tolerance) assert_true(fabs((a) - (b)) <= (tolerance))

#endif
