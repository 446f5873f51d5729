package example;

import com.amazonaws.services.lambda.runtime.Context;
import com.amazonaws.services.lambda.runtime.RequestHandler;
import java.util.Map;

/** Echoes its event; fails, waits or exits if the event asks for it. */
public class Echo implements RequestHandler<Map<String, Object>, Map<String, Object>> {
    @Override
    public Map<String, Object> handleRequest(Map<String, Object> event, Context context) {
        System.out.println("echoing " + context.getAwsRequestId());
        if (event.containsKey("fail")) {
            throw new IllegalStateException("the event asks for it");
        }
        if (event.containsKey("wait")) {
            sleep(((Number) event.get("wait")).longValue());
        }
        if (event.containsKey("exit")) {
            System.exit(((Number) event.get("exit")).intValue());
        }
        return Map.of(
                "function", context.getFunctionName(),
                "request_id", context.getAwsRequestId(),
                "remaining_ms", context.getRemainingTimeInMillis(),
                "event", event);
    }

    private static void sleep(long seconds) {
        try {
            Thread.sleep(seconds * 1000);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }
}
