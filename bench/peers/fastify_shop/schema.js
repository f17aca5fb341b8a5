// The tables: catalog's products and stock as they are, and the peer's own users and orders.
import { randomUUID } from "node:crypto";
import { bigint, integer, pgTable, primaryKey, text, timestamp, uuid } from "drizzle-orm/pg-core";

export const products = pgTable("products", {
  id: uuid().primaryKey(),
  sku: text().notNull(),
  name: text().notNull(),
  description: text().notNull(),
  category_id: uuid(),
  currency_code: text().notNull(),
  price_minor: bigint({ mode: "number" }).notNull(),
  status: text().notNull(),
  image_urls: text().array().notNull(),
  created_at: timestamp({ withTimezone: true, mode: "string" }).notNull(),
  updated_at: timestamp({ withTimezone: true, mode: "string" }).notNull(),
});

export const stock = pgTable("stock", {
  product_id: uuid().primaryKey(),
  available: bigint({ mode: "number" }).notNull(),
  reserved: bigint({ mode: "number" }).notNull(),
});

export const users = pgTable("fastify_users", {
  id: uuid().primaryKey().$defaultFn(randomUUID),
  email: text().notNull(),
  password_hash: text().notNull(),
});

export const orders = pgTable("fastify_orders", {
  id: uuid().primaryKey().$defaultFn(randomUUID),
  buyer_id: text().notNull(),
  total_minor: bigint({ mode: "number" }).notNull(),
});

export const orderItems = pgTable(
  "fastify_order_items",
  {
    order_id: uuid().notNull(),
    product_id: uuid().notNull(),
    quantity: integer().notNull(),
    unit_price_minor: bigint({ mode: "number" }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.order_id, table.product_id] })],
);

export const CREATE_TABLES = `
  CREATE TABLE IF NOT EXISTS fastify_users (
    id uuid PRIMARY KEY, email text NOT NULL UNIQUE, password_hash text NOT NULL
  );
  CREATE TABLE IF NOT EXISTS fastify_orders (
    id uuid PRIMARY KEY, buyer_id text NOT NULL, total_minor bigint NOT NULL
  );
  CREATE TABLE IF NOT EXISTS fastify_order_items (
    order_id uuid REFERENCES fastify_orders, product_id uuid REFERENCES products, quantity int NOT NULL,
    unit_price_minor bigint NOT NULL, PRIMARY KEY (order_id, product_id)
  );
`;
