use std::convert::Infallible;
use std::path::Path;

use super::*;

/// A plugin that runs these lines of shell.
fn plugin(lines: &str) -> Plugin {
    let exec = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", lines],
        "env": [{"name": "ANSWER", "value": "said"}],
        "installHint": "install it",
    });
    let exec = serde_json::from_value(exec).unwrap();
    Plugin { exec, limit: Duration::from_secs(20), pause: Duration::ZERO }
}

/// A plugin that notes each run in the file `runs`, and prints the status in the file `status`.
fn noting(folder: &Path) -> Plugin {
    let folder = folder.display();
    plugin(&format!("echo >> {folder}/runs; echo '{{\"status\":' && cat {folder}/status && echo '}}'"))
}

fn runs(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("runs")).unwrap().lines().count()
}

fn write(folder: &Path, status: &serde_json::Value) {
    std::fs::write(folder.join("status"), status.to_string()).unwrap();
}

/// A client of a server that answers with the credentials it got, and accepts those with the text of the file `taken`
/// in them: all of them, if there is no such file.
fn made(folder: &Path, credentials: &Credentials) -> Client {
    let mut user = AuthInfo::default();
    credentials.give_to(&mut user);
    let text = serde_json::to_string(&user).unwrap();
    let taken = folder.join("taken");
    let answer = move |_: Request<Body>| {
        let is_taken = std::fs::read_to_string(&taken).map_or(true, |taken| text.contains(&taken));
        let status = if is_taken { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        let answer = http::Response::builder().status(status);
        let answer = answer.body(Body::from(text.clone().into_bytes())).unwrap();
        async { Ok::<_, Infallible>(answer) }
    };
    Client::new(service_fn(answer), "default")
}

async fn start(folder: &Path, plugin: Plugin) -> Client {
    let first = plugin.run().await.unwrap();
    let folder = folder.to_owned();
    client(plugin, first, move |credentials| Ok(made(&folder, credentials))).unwrap()
}

async fn ask(client: &Client) -> (StatusCode, String) {
    let answer = client.send(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    (head.status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_token_that_is_denied_is_renewed_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &serde_json::json!({"token": "first"}));
    let client = start(folder, noting(folder)).await;
    assert_eq!(ask(&client).await.0, StatusCode::OK);
    assert_eq!(runs(folder), 1, "it has no end");
    write(folder, &serde_json::json!({"token": "second"}));
    std::fs::write(folder.join("taken"), "second").unwrap();
    // Both requests are sent before either answer is there.
    let (one, other) = tokio::join!(ask(&client), ask(&client));
    assert_eq!((one.0, other.0), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
    for _ in 0..3 {
        assert_eq!(ask(&client).await.0, StatusCode::OK);
    }
    assert_eq!(runs(folder), 2);
}

#[tokio::test]
async fn what_expires_is_renewed_before() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let say = |name: &str, seconds: i64| {
        let end = Timestamp::now() + SignedDuration::from_secs(seconds);
        write(
            folder,
            &serde_json::json!({
                "clientCertificateData": name,
                "clientKeyData": "key",
                "expirationTimestamp": end,
            }),
        );
    };
    say("first", 30);
    let client = start(folder, noting(folder)).await;
    say("second", 3600);
    for _ in 0..3 {
        let user = ask(&client).await.1;
        assert!(user.contains("\"client-certificate-data\":\"c2Vjb25k\""), "{user}");
        assert!(user.contains("\"client-key-data\":\"a2V5\""), "{user}");
    }
    assert_eq!(runs(folder), 2);
}

#[tokio::test]
async fn a_plugin_is_left_alone_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &serde_json::json!({"token": "first"}));
    std::fs::write(folder.join("taken"), "never").unwrap();
    let client = start(folder, Plugin { pause: Duration::from_hours(1), ..noting(folder) }).await;
    for _ in 0..10 {
        assert_eq!(ask(&client).await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(runs(folder), 1);
}

#[tokio::test]
async fn a_plugin_that_fails_is_told_once_and_its_last_word_counts() {
    let (log, _listening) = crate::telemetry::tests::listen();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &serde_json::json!({"token": "first", "expirationTimestamp": Timestamp::now()}));
    let client = start(folder, noting(folder)).await;
    std::fs::remove_file(folder.join("status")).unwrap();
    for _ in 0..3 {
        assert!(ask(&client).await.1.contains("first"));
    }
    assert_eq!(runs(folder), 4);
    let told = log.lines_with("The credential plugin failed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("sh: exit status: 1: cat: "), "{told:?}");
}

/// How many processes run in a process group, without zombies.
fn members(group: u32) -> usize {
    let stat = |entry: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(entry.unwrap().path().join("stat")).ok()?;
        // state, parent, group
        let fields: Vec<String> = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect();
        Some((fields[0].clone(), fields[2].clone()))
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(stat);
    all.filter(|(state, of)| state != "Z" && *of == group.to_string()).count()
}

/// Waits until no process of a group runs any more.
async fn ended(group: u32) {
    while members(group) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `sh` has written its process number, and its child runs.
async fn begun(file: &Path) -> u32 {
    loop {
        let written = std::fs::read_to_string(file).unwrap_or_default();
        match written.lines().last().and_then(|line| line.parse().ok()) {
            Some(group) if members(group) == 2 => return group,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test]
async fn a_plugin_that_hangs_ends_with_what_it_started_and_is_the_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, &serde_json::json!({"token": "first", "expirationTimestamp": Timestamp::now()}));
    let groups = folder.join("groups");
    let hangs = format!("echo $$ >> {}; sleep 1000; true", groups.display());
    let limit = Duration::from_millis(500);
    let plugin = Plugin { limit, pause: Duration::from_hours(1), ..plugin(&hangs) };
    let first = noting(folder).run().await.unwrap();
    let owned = folder.to_owned();
    let client = client(plugin, first, move |credentials| Ok(made(&owned, credentials))).unwrap();
    // As if the plugin had run long ago.
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(2)).await;
    tokio::time::resume();
    let (one, other, group) = tokio::join!(ask(&client), ask(&client), begun(&groups));
    assert!(one.1.contains("first") && other.1.contains("first"));
    ended(group).await;
    assert_eq!(std::fs::read_to_string(&groups).unwrap().lines().count(), 1, "one for both requests");
}

#[tokio::test]
async fn a_plugin_ends_with_who_asks_it() {
    let folder = tempfile::tempdir().unwrap();
    let groups = folder.path().join("groups");
    let plugin = plugin(&format!("echo $$ > {}; sleep 1000; true", groups.display()));
    let group = tokio::select! {
        said = plugin.run() => panic!("it says {:?}", said.err()),
        group = begun(&groups) => group,
    };
    ended(group).await;
}

#[tokio::test]
async fn it_is_told_what_it_needs_and_what_is_wrong_is_one_line_without_secrets() {
    let told = "printf '{\"status\": {\"token\": \"%s %s\"}}' $ANSWER \"$(echo $KUBERNETES_EXEC_INFO | tr -d '\"')\"";
    let said = plugin(told).run().await.unwrap();
    let about = "{apiVersion:client.authentication.k8s.io/v1,kind:ExecCredential,spec:{interactive:false}}";
    assert_eq!(said.token.unwrap(), format!("said {about}"));
    let both = r#"echo '{"status": {"token": "", "clientCertificateData": "x", "clientKeyData": "y"}}'"#;
    assert_eq!(plugin(both).run().await.unwrap().token, None, "an empty one beside a certificate is none");

    for (lines, problem) in [
        ("echo secret", "sh: printed no ExecCredential (line 1, column 1)"),
        ("echo '{}'", "sh: printed no status"),
        ("echo '{\"status\": {}}'", "sh: printed neither a token nor a certificate"),
        ("echo '{\"status\": {\"token\": \"\"}}'", "sh: printed neither a token nor a certificate"),
        (
            "echo '{\"status\": {\"clientCertificateData\": \"x\"}}'",
            "sh: printed a certificate without its key",
        ),
        ("echo '{\"status\": {\"clientKeyData\": \"x\"}}'", "sh: printed a key without its certificate"),
        ("echo secret; echo a >&2; echo b >&2; exit 3", "sh: exit status: 3: a"),
        ("kill -9 $$", "sh: signal: 9 (SIGKILL): "),
    ] {
        assert_eq!(plugin(lines).run().await.err().unwrap(), problem, "{lines}");
    }
    let mut missing = plugin("");
    missing.exec.command = Some("/nonexistent/plugin".into());
    assert_eq!(
        missing.run().await.err().unwrap(),
        "/nonexistent/plugin: No such file or directory (os error 2): install it"
    );
    missing.exec.interactive_mode = Some(ExecInteractiveMode::Always);
    assert!(missing.run().await.err().unwrap().starts_with("interactiveMode: "));
}

#[test]
fn what_the_kubeconfig_itself_says_goes_before_a_plugin() {
    let is_asked = |more: &str| {
        let mut user: AuthInfo =
            serde_json::from_str(&format!("{{\"exec\": {{\"command\": \"c\"}}{more}}}")).unwrap();
        let plugin = Plugin::of(&mut user);
        assert!(user.exec.is_none(), "kube's client must not run it");
        plugin.is_some()
    };
    assert!(is_asked(""));
    assert!(is_asked(r#", "client-certificate": "a""#));
    assert!(is_asked(r#", "username": "a""#));
    for more in [
        r#", "token": "a""#,
        r#", "tokenFile": "a""#,
        r#", "username": "a", "password": "b""#,
        r#", "client-certificate": "a", "client-key-data": "Yg==""#,
    ] {
        assert!(!is_asked(more), "{more}");
    }
}
