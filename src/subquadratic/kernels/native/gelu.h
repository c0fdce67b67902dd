// The normal distribution, for GELU (arXiv 1606.08415): x Phi(x), where Phi is its cumulative distribution function.
#ifndef SUBQUADRATIC_GELU_H
#define SUBQUADRATIC_GELU_H

#include "vector.h"

// Phi(x), to 1e-7 of itself in either tail, and the density at x: exp(-x^2 / 2) times a polynomial in 1 / (1 + 0.21 |x|), of the form of
// Abramowitz and Stegun, 7.1.26, with coefficients of the smallest relative error found by least squares.
INLINE vec normal_of(vec x, vec *density) {
    vec size = (vec)((ivec)x & 0x7fffffff);
    vec e = exp2_of(x * x * -0.72134752044448170f);
    vec t = 1.0f / (size * 0.21f + 1.0f);
    vec p = t * -0.07165545022249785f + 0.2835848251411769f;
    p = p * t - 0.3302463592339748f;
    p = p * t + 0.3493935550332977f;
    p = p * t - 0.09392029805178544f;
    p = p * t + 0.12487066665219884f;
    p = p * t + 0.0691927092899392f;
    p = p * t + 0.08506877768006796f;
    p = p * t + 0.08371158084041679f;
    p = p * t * e;
    *density = e * 0.3989422804014327f;
    return choose(x < 0.0f, p, 1.0f - p);
}

INLINE vec gelu_of(vec x) {
    vec density;
    return x * normal_of(x, &density);
}

#endif
