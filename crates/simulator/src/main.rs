//! The simulator as a program, for test suites in other languages.
//!
//! `simulator [--listen 127.0.0.1:0] [--record FILE]` prints `{"addr": "127.0.0.1:PORT", ...}` on
//! one line and serves until it is interrupted or its standard input ends with `--until-eof`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use simulator::{Options, Simulator};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str =
    "usage: simulator [--listen ADDR] [--record FILE] [--api-key KEY] [--until-eof] [--prices]";

struct Arguments {
    listen: String,
    record: Option<String>,
    api_key: Option<String>,
    until_eof: bool,
    prices: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            // Nobody is left to tell where standard error is closed.
            let _ = writeln!(io::stderr(), "{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    if arguments.prices {
        return io::stdout().write_all(simulator::PRICE_CARD.as_bytes());
    }
    let addr = arguments
        .listen
        .parse()
        .map_err(|_| io::Error::other("--listen takes ADDRESS:PORT"))?;
    let mut options = Options::for_tests();
    options.api_key.clone_from(&arguments.api_key);
    options.record = arguments.record.as_deref().map(open_record).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let simulator = Simulator::bind(addr, options).await?;
        let addr = simulator.addr();
        let line = serde_json::json!({
            "addr": addr.to_string(),
            "openai": format!("http://{addr}/v1"),
            "anthropic": format!("http://{addr}"),
        });
        writeln!(io::stdout(), "{line}")?;
        io::stdout().flush()?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        simulator
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = input_ends(), if arguments.until_eof => {}
                }
            })
            .await;
        Ok(())
    });
    // The reader of standard input may wait for ever.
    runtime.shutdown_background();
    served
}

async fn input_ends() {
    // A broken input counts as an ended one.
    let _ = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test tool that writes the one file its caller names"
)]
fn open_record(path: &str) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        listen: "127.0.0.1:0".to_owned(),
        record: None,
        api_key: None,
        until_eof: false,
        prices: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
        match word.as_str() {
            "--listen" => arguments.listen = value()?,
            "--record" => arguments.record = Some(value()?),
            "--api-key" => arguments.api_key = Some(value()?),
            "--until-eof" => arguments.until_eof = true,
            "--prices" => arguments.prices = true,
            other => return Err(format!("unknown argument '{other}'")),
        }
    }
    Ok(arguments)
}
