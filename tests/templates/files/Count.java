import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** For each line that comes in, its number, how often the clock has ticked, and the sum of all lengths so far. */
public class Count {
    static final AtomicLong ticks = new AtomicLong(), count = new AtomicLong(), total = new AtomicLong();
    static final List<byte[]> kept = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        Executors.newScheduledThreadPool(2).scheduleAtFixedRate(ticks::incrementAndGet, 50, 50, TimeUnit.MILLISECONDS);
        try (var server = new ServerSocket(7101); var threads = Executors.newVirtualThreadPerTaskExecutor()) {
            while (true) {
                Socket socket = server.accept();
                threads.submit(() -> { talk(socket); return null; });
            }
        }
    }

    static void talk(Socket socket) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(socket.getInputStream()));
        for (String line; (line = lines.readLine()) != null;) {
            long number = count.incrementAndGet(), sum = total.addAndGet(line.length());
            synchronized (kept) { kept.add(new byte[10000]); }
            socket.getOutputStream().write((number + " " + ticks + " " + sum + "\n").getBytes());
        }
    }
}
