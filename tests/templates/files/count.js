// For each line that comes in, its number, how often the clock has ticked, and the sum of all lengths so far.
const net = require("net"), readline = require("readline"), { Worker } = require("worker_threads");
let ticks = 0, count = 0, total = 0;
const kept = [];
// In a thread of its own.
new Worker('const { parentPort } = require("worker_threads"); setInterval(() => parentPort.postMessage(1), 50)', { eval: true })
  .on("message", () => ticks++);
net.createServer((socket) => {
  socket.on("error", () => {});
  readline.createInterface({ input: socket }).on("line", (line) => {
    count++;
    total += line.length;
    kept.push(new Array(1000).fill(line + count));
    socket.write(`${count} ${ticks} ${total}\n`);
  });
}).listen(7102, "0.0.0.0");
