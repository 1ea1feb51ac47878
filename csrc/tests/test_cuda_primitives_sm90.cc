#include "cuda/primitives_sm90.h"
int main() { return 0; }
