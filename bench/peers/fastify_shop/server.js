// The peer of the edge as a plain Node.js service, as its users would write it today: Fastify, Drizzle on postgres.js
// with prepared statements, a bearer JWT verified on every request (verified ones are cached), Argon2id, JSON schemas.
// It reads the same tables as catalog, on two workers. No TLS, gateway, rate limit, tracing, idempotency key,
// saga or event, all of which favors it.
import cluster from "node:cluster";
import { createPublicKey, generateKeyPairSync } from "node:crypto";

import fastifyJwt from "@fastify/jwt";
import { hash, verify } from "@node-rs/argon2";
import { and, desc, eq, getTableColumns, gte, inArray, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/postgres-js";
import Fastify from "fastify";
import postgres from "postgres";

import * as answers from "./answers.js";
import { CREATE_TABLES, orderItems, orders, products, stock, users } from "./schema.js";

const WORKERS = 2;
const CONNECTIONS = 10;
const ARGON2ID = { algorithm: 2, memoryCost: 19456, timeCost: 2, parallelism: 1 };

if (cluster.isPrimary) {
  await prepare();
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const signingKey = privateKey.export({ type: "pkcs8", format: "pem" });
  for (let worker = 0; worker < WORKERS; worker += 1) cluster.fork({ SIGNING_KEY: signingKey });
} else {
  await serve();
}

async function prepare() {
  const connection = postgres(process.env.BENCH_DATABASE_URL, { max: 1, onnotice: () => {} });
  await connection.unsafe(CREATE_TABLES);
  await connection.end();
}

async function serve() {
  const database = drizzle(postgres(process.env.BENCH_DATABASE_URL, { max: CONNECTIONS }));
  const app = Fastify();
  await app.register(fastifyJwt, jwtOptions());
  const signedIn = { onRequest: (request) => request.jwtVerify() };

  const columns = { ...getTableColumns(products), available: stock.available };
  const joined = () =>
    database.select(columns).from(products).innerJoin(stock, eq(stock.product_id, products.id));
  const one = joined().where(eq(products.id, sql.placeholder("id"))).prepare("one_product");
  const page = joined()
    .orderBy(desc(products.created_at), desc(products.id))
    .limit(sql.placeholder("limit"))
    .offset(sql.placeholder("offset"))
    .prepare("page_of_products");
  const count = database
    .select({ total: sql`count(*)::int` })
    .from(products)
    .prepare("count_of_products");
  const account = database
    .select()
    .from(users)
    .where(eq(users.email, sql.placeholder("email")))
    .prepare("account");

  // find-my-way reads "::any" as the text ":any".
  app.get("/v1/products/:id(^[0-9a-f-]{36})::any", { ...signedIn, schema: answers.getProduct }, async (request) => {
    const [row] = await one.execute({ id: request.params.id });
    if (!row) throw refusal(404, "No such product.");
    return product(row);
  });

  app.get("/v1/products::all", { ...signedIn, schema: answers.listProducts }, async (request) => {
    const { page: number, limit } = request.query;
    const [[{ total }], rows] = await Promise.all([
      count.execute(),
      page.execute({ limit, offset: (number - 1) * limit }),
    ]);
    return { data: rows.map(product), meta: { total, page: number, limit } };
  });

  // One transaction in one database: what a monolith does.
  app.post("/v1/orders", { ...signedIn, schema: answers.placeOrder }, async (request, reply) => {
    const lines = request.body.lines.toSorted((a, b) => (a.product_id < b.product_id ? -1 : 1));
    const order = await database.transaction((transaction) => place(transaction, request.user.sub, lines));
    return reply.code(201).send({ ...order, status: "pending_payment" });
  });

  app.post("/v1/users/register", { schema: answers.credentials }, async (request, reply) => {
    const { email, password } = request.body;
    const [user] = await database
      .insert(users)
      .values({ email, password_hash: await hash(password, ARGON2ID) })
      .returning({ id: users.id, email: users.email });
    return reply.code(201).send(user);
  });

  app.post("/v1/users/login", { schema: answers.credentials }, async (request) => {
    const { email, password } = request.body;
    const [user] = await account.execute({ email });
    if (!user || !(await verify(user.password_hash, password))) throw refusal(401, "The login failed.");
    const token = app.jwt.sign({ sub: user.id });
    return { access_token: token, token_type: "Bearer", expires_in: 600 };
  });

  await app.listen({ host: "127.0.0.1", port: Number(process.env.BENCH_PORT) });
}

// The mesh's tokens are verified by its published keys; what this service signs, it signs the same way.
function jwtOptions() {
  const keys = JSON.parse(process.env.BENCH_JWKS).keys;
  const pem = Object.fromEntries(
    keys.map((key) => [
      key.kid,
      createPublicKey({ key, format: "jwk" }).export({ type: "spki", format: "pem" }),
    ]),
  );
  return {
    decode: { complete: true },
    secret: {
      private: process.env.SIGNING_KEY,
      public: async (_request, token) => pem[token.header.kid],
    },
    sign: { algorithm: "ES256", iss: "protomesh", aud: "protomesh", expiresIn: "10m" },
    verify: { algorithms: ["ES256"], allowedIss: "protomesh", allowedAud: "protomesh", cache: true },
  };
}

async function place(transaction, buyer, lines) {
  const ids = lines.map((line) => line.product_id);
  const found = await transaction
    .select({ id: products.id, price: products.price_minor })
    .from(products)
    .where(inArray(products.id, ids));
  const prices = new Map(found.map((row) => [row.id, row.price]));
  for (const line of lines) {
    const taken = await transaction
      .update(stock)
      .set({
        available: sql`${stock.available} - ${line.quantity}`,
        reserved: sql`${stock.reserved} + ${line.quantity}`,
      })
      .where(and(eq(stock.product_id, line.product_id), gte(stock.available, line.quantity)))
      .returning({ id: stock.product_id });
    if (taken.length === 0) throw refusal(409, "Out of stock.");
  }
  const total = lines.reduce((sum, line) => sum + line.quantity * prices.get(line.product_id), 0);
  const [order] = await transaction
    .insert(orders)
    .values({ buyer_id: buyer, total_minor: total })
    .returning({ id: orders.id, total: orders.total_minor });
  await transaction.insert(orderItems).values(
    lines.map((line) => ({
      order_id: order.id,
      product_id: line.product_id,
      quantity: line.quantity,
      unit_price_minor: prices.get(line.product_id),
    })),
  );
  return order;
}

function product({ currency_code, price_minor, ...row }) {
  return { ...row, price: { currency_code, amount_minor: price_minor }, in_stock: row.available > 0 };
}

function refusal(statusCode, message) {
  return Object.assign(new Error(message), { statusCode });
}
