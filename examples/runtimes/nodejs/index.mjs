// Echoes its event; fails, waits or exits if the event asks for it.
import { setTimeout } from 'node:timers/promises';

export async function handler(event, context) {
  console.log(`echoing ${context.awsRequestId}`);
  if (event.fail) throw new RangeError('the event asks for it');
  if (event.wait) await setTimeout(event.wait * 1000);
  if (event.exit) process.exit(event.exit);
  return {
    function: context.functionName,
    request_id: context.awsRequestId,
    remaining_ms: context.getRemainingTimeInMillis(),
    event,
  };
}
