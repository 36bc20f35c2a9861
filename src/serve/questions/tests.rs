use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;

#[derive(Serialize)]
struct Told(&'static str);

/// What is answered to a question that `loop_` gets.
async fn ask(path: &str, loop_: impl AsyncFnOnce(mpsc::Receiver<Question<Told>>)) -> (u16, String, String) {
    let (asker, questions) = channel();
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (answer, ()) = tokio::join!(router(asker).oneshot(request), loop_(questions));
    let answer = answer.unwrap();
    let code = answer.status().as_u16();
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (code, content_type, String::from_utf8(body.to_vec()).unwrap())
}

fn about(about: &About) -> Result<Told, String> {
    match about {
        About::Service(key) if key.name() == "web" => Ok(Told("the Service")),
        About::Service(key) => Err(format!("no {key}")),
        About::Address(address) if address.is_loopback() => Ok(Told("the address")),
        About::Address(address) => Err(format!("no {address}")),
        About::Troubles => Ok(Told("troubles")),
    }
}

#[tokio::test]
async fn questions_are_answered_by_the_loop() {
    for (path, code, content_type, body) in [
        ("/services/default/web", 200, JSON, "\"the Service\"\n"),
        ("/services/default/wep", 404, super::super::http::TEXT, "no default/wep\n"),
        ("/services", 200, JSON, "\"troubles\"\n"),
        ("/addresses/::1", 200, JSON, "\"the address\"\n"),
        ("/addresses/10.0.0.1", 404, super::super::http::TEXT, "no 10.0.0.1\n"),
    ] {
        let answered = ask(path, async |mut questions| {
            let question = questions.recv().await.expect("a question");
            let answer = about(&question.about);
            question.answer(answer);
        });
        assert_eq!(answered.await, (code, content_type.to_owned(), body.to_owned()), "{path}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_not_asked() {
    let answered = ask("/addresses/web", async |mut questions| {
        assert!(questions.recv().await.is_none(), "the asker went without a question");
    });
    assert_eq!(answered.await.2, "\"web\" is no IP address\n");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_answer_is_not_waited_for() {
    let start = tokio::time::Instant::now();
    let (code, _, body) = ask("/services/default/web", async |mut questions| {
        let question = questions.recv().await.expect("a question");
        assert!(!question.is_given_up());
        tokio::time::sleep(2 * PATIENCE).await;
        assert!(question.is_given_up());
        question.answer(Ok(Told("too late")));
    })
    .await;
    assert_eq!(code, 503);
    assert!(body.starts_with("No answer within 2 seconds. "), "{body}");
    assert_eq!(start.elapsed(), 2 * PATIENCE);
    let (code, _, body) = ask("/services/default/web", async |questions| drop(questions)).await;
    assert_eq!((code, &*body), (503, "The program is ending.\n"));
}

#[tokio::test(start_paused = true)]
async fn few_wait_at_once() {
    let (asker, questions) = channel::<Told>();
    let one = || asker.ask(About::Troubles);
    // Each is asked before the next one.
    let (_, _, _, _, more) = tokio::join!(biased; one(), one(), one(), one(), async {
        let answer = one().await;
        (answer.status(), tokio::time::Instant::now())
    });
    assert_eq!(more.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(more.1.elapsed() >= PATIENCE, "it was told at once");
    assert_eq!(questions.len(), WAITING);
}
