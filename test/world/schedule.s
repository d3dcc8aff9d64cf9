// A function without a body, as in schedule.go, takes an assembly file beside it.
