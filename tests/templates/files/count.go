// For each line that comes in, its number, how often the clock has ticked, and the sum of all lengths so far.
package main

import (
	"bufio"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

var ticks, count, total atomic.Int64
var kept = make(chan []byte, 1<<20)

func talk(connection net.Conn) {
	for lines := bufio.NewScanner(connection); lines.Scan(); {
		number, sum := count.Add(1), total.Add(int64(len(lines.Text())))
		kept <- make([]byte, 10000)
		fmt.Fprintf(connection, "%d %d %d\n", number, ticks.Load(), sum)
	}
}

func main() {
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			ticks.Add(1)
		}
	}()
	listener, problem := net.Listen("tcp", "0.0.0.0:7103")
	if problem != nil {
		panic(problem)
	}
	for {
		if connection, problem := listener.Accept(); problem == nil {
			go talk(connection)
		}
	}
}
