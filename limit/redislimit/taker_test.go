package redislimit

func taker([]string) int { return 0 }
