// What made this library, and of what.
const char built_by[] = BUILT_BY;     // the compiler, and the variant
const char built_from[] = BUILT_FROM; // a digest of the C sources
