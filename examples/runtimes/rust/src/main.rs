//! Echoes its event; fails, waits or exits if the event asks for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lambda_runtime::{service_fn, Diagnostic, Error, LambdaEvent};
use serde_json::{json, Value};

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Diagnostic> {
    let (event, context) = event.into_parts();
    println!("echoing {}", context.request_id);
    if event["fail"] == true {
        return Err(Diagnostic {
            error_type: "Asked".into(),
            error_message: "the event asks for it".into(),
        });
    }
    if let Some(seconds) = event["wait"].as_f64() {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
    if let Some(status) = event["exit"].as_i64() {
        std::process::exit(status as i32);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(json!({
        "function": context.env_config.function_name,
        "request_id": context.request_id,
        "remaining_ms": context.deadline.saturating_sub(now.as_millis() as u64),
        "event": event,
    }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(handle)).await
}
