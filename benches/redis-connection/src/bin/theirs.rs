//! The same over the crate's connection.

fn main() {
    let port = std::env::args().nth(1).expect("a port");
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let info: redis::ConnectionInfo =
            redis::IntoConnectionInfo::into_connection_info(format!("redis://127.0.0.1:{port}"))
                .unwrap();
        let settings = info.redis_settings().clone().set_lib_name("semrun", "0.1.0");
        let info = info.set_redis_settings(settings);
        let client = redis::Client::open(info).unwrap();
        let mut c = client.get_multiplexed_async_connection().await.unwrap();
        let _: String = redis::cmd("PING").query_async(&mut c).await.unwrap();
        let _: String = redis::cmd("PING").query_async(&mut c).await.unwrap();
    });
}
